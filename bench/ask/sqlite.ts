// The index of a site in Node's SQLite: the Worker's own statements, whose tokenizer and weights can
// be replaced.
import { canonicalAddressOf } from '../../src/page/rules.ts'
import { SiteIndex, type Sql } from '../../src/search/site-index.ts'
import { memorySql } from '../../test/support/site.ts'
import type { CutPage } from './pages.ts'
import type { PageQuestions } from './sites.ts'

export interface Variant {
  readonly tokenizer?: string
  /** Of title, headings, path, text and questions. */
  readonly weights?: readonly number[]
}

export function indexOf(
  pages: readonly CutPage[],
  variant: Variant = {},
  questionsOf: PageQuestions = {},
): SiteIndex {
  const index = new SiteIndex(sqlFor(variant))
  for (const { url, title, language, validators, passages } of pages) {
    const read = { title, language, validators, readAs: '', hash: url.href, passages }
    const questions = questionsOf[url.pathname.slice(1)] ?? []
    index.put({ name: canonicalAddressOf(url), url: url.href, read, questions, now: 0 })
  }
  return index
}

function sqlFor(variant: Variant): Sql {
  const sql = memorySql()
  return {
    ...sql,
    exec(query, ...values) {
      const bound = values.map((value) =>
        typeof value === 'string' ? replaced(value, variant) : value,
      )
      return sql.exec(replaced(query, variant), ...bound)
    },
  }
}

function replaced(text: string, { tokenizer, weights }: Variant): string {
  return text
    .replace(/tokenize = "[^"]*"/, (known) => (tokenizer ? `tokenize = "${tokenizer}"` : known))
    .replace(/^bm25\([\d., ]*\)$/, (known) => (weights ? `bm25(${weights.join(', ')})` : known))
}
