// Variables of locked prompts that are passages of the owner's site: from a visitor's question to
// the numbered texts in the prompt, and to the pages they cite.
import type { Cite } from '../completion/cites.ts'
import { GatewayError, messages } from '../errors.ts'
import { type PageTexts, questionMessages } from '../request/effective.ts'
import { pageText } from '../request/page-text.ts'
import { numberedPassages, placeOf } from '../request/passages-text.ts'
import { isLocked, type VisitorRequest } from '../request/schema.ts'
import { type PassagesVariable, passagesIn, type Variables } from '../request/template.ts'
import { pageNamesOf } from '../search/search.ts'

/** The search of the owner's site. */
export interface PassageSearch {
  /**
   * @param visitor whose rate limit applies; null: the operator, who has none
   * @throws GatewayError `site_not_indexed`, `rate_limited`, `search_unavailable`
   */
  find(question: string, limit: number, visitor: string | null): Promise<FoundPassages>
}

interface FoundPassages {
  /** Best first. */
  readonly passages: readonly {
    readonly url: string
    readonly title: string
    readonly heading: string
    readonly text: string
  }[]
  /** The share of the question's content words that occur anywhere on the site, 0 … 1. */
  readonly coverage: number
}

/** What the passages of a request are to be about. */
export interface SiteQuestion {
  readonly name: string
  readonly variable: PassagesVariable
  readonly question: string
}

export interface CitedPassages {
  readonly texts: PageTexts
  /** In the order of their numbers. */
  readonly cites: readonly Cite[]
  /** The names that the answer can be purged by: one for each page. */
  readonly names: readonly string[]
}

/** Below this share the site has nothing about a question. */
export const LEAST_COVERAGE = 2 / 3

/** What a valid request asks about; null if its prompt has no passages. */
export function siteQuestionOf(
  { prompt }: VisitorRequest,
  prompts: ReadonlyMap<string, { readonly variables: Variables }>,
): SiteQuestion | null {
  if (!isLocked(prompt)) return null
  const passages = passagesIn(prompts.get(prompt.id)?.variables ?? {})
  if (passages === null) return null
  const [name, variable] = passages
  const { messages = [], variables = {} } = prompt
  const given = variable.about === undefined ? [] : [String(variables[variable.about])]
  const question = [...given, ...questionMessages(messages).map(({ content }) => content)].join(
    '\n',
  )
  return { name, variable, question }
}

/** @throws GatewayError `no_passages` and those of `PassageSearch` */
export async function findPassages(
  { name, variable, question }: SiteQuestion,
  search: PassageSearch,
  visitor: string | null,
): Promise<CitedPassages> {
  const { passages, coverage } = await search.find(question, variable.count, visitor)
  if (passages.length === 0 || coverage < LEAST_COVERAGE) {
    throw new GatewayError('no_passages', messages.no_passages)
  }
  const { text, used } = numberedPassages(passages, variable.max_chars)
  const marked = await pageText(
    text,
    used.map(({ url }) => url),
  )
  return {
    texts: new Map([[name, marked]]),
    cites: used.map((passage) => ({ url: passage.url, title: placeOf(passage) })),
    names: await pageNamesOf(used),
  }
}
