// Cuts the pages of a site into passages, as the Worker does.
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { referencesOnce } from '../../src/html/references.ts'
import type { FetchDeps } from '../../src/page/fetch.ts'
import type { Passage, ReadPage } from '../../src/search/passage.ts'
import { fetchPassages } from '../../src/search/read.ts'
import type { Site, Source } from './sites.ts'

export interface CutPage extends ReadPage {
  readonly url: URL
}

const SELECTOR = 'main, article, body'
const references = referencesOnce(() =>
  readFile(join(import.meta.dirname, '../../src/html/references.txt'), 'utf8'),
)

export async function cutPages({ pages }: Site): Promise<CutPage[]> {
  return await Promise.all(pages.map(cutPage))
}

async function cutPage({ url, type, bytes }: Source): Promise<CutPage> {
  const deps: FetchDeps = {
    fetch: async () =>
      new Response(bytes, { headers: { 'content-type': `${type}; charset=utf-8` } }),
    references,
  }
  const source = { url, selector: SELECTOR, refusalOf: () => null, allows: () => true }
  const page = await fetchPassages(source, null, deps)
  return { ...page!, url }
}

/** The page with passages of another size: neighbours are joined, or cut between their lines. */
export function resized(page: CutPage, maxChars: number): CutPage {
  const passages: Passage[] = []
  for (const passage of page.passages) {
    for (const text of linesOf(passage.text, maxChars)) {
      const last = passages.at(-1)
      const isSame = last?.url === passage.url && last.heading === passage.heading
      if (isSame && last.text.length + 1 + text.length <= maxChars) {
        passages[passages.length - 1] = { ...last, text: `${last.text}\n${text}` }
      } else passages.push({ ...passage, text })
    }
  }
  return { ...page, passages }
}

/** The lines of a text, of which long ones are cut at spaces. */
function linesOf(text: string, maxChars: number): string[] {
  const line = new RegExp(`.{1,${maxChars}}(?:\\s|$)`, 'gs')
  return text.split('\n').flatMap((whole) => whole.match(line)?.map((part) => part.trimEnd()) ?? [])
}
