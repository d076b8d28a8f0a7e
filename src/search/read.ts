// Reads a page of the owner's site into passages.
import { parseSelectors } from '../html/selector.ts'
import {
  type FetchDeps,
  fetchPage,
  PageError,
  type PageSource,
  type Validators,
} from '../page/fetch.ts'
import { decoded } from './links.ts'
import { markdownPages } from './markdown-pages.ts'
import { outlineOf } from './outline.ts'
import type { Passage, ReadPage } from './passage.ts'
import { type Outline, passagesOf } from './passages.ts'

/** A page to be indexed. */
interface IndexSource extends PageSource {
  /** Which part of an HTML page is read: alternatives, of which the first that has text counts. */
  readonly selector: string
  /** Whether a page that a collection names may be indexed. */
  readonly allows: (url: URL) => boolean
}

/** The limit for Markdown and text: `llms-full.txt` holds a whole site. */
const MAX_TEXT_BYTES = 8_388_608
/** The limit for one page. */
const MAX_PASSAGES = 20_000

/**
 * Fetches a page and cuts it into passages.
 *
 * @param known the validators of the version that is indexed, for a conditional request
 * @returns null if the page still matches these validators
 * @throws PageError
 */
export async function fetchPassages(
  source: IndexSource,
  known: Validators | null,
  deps: FetchDeps,
): Promise<ReadPage | null> {
  const page = await fetchPage(source, known, deps, MAX_TEXT_BYTES)
  if (page === null) return null
  const { document, validators } = page
  const pages =
    typeof document === 'string'
      ? markdownPages(document, source.url, await deps.references())
      : [{ url: source.url, outline: outlineOf(document, parseSelectors(source.selector) ?? []) }]
  const passages: Passage[] = []
  for (const { url, outline } of pages) {
    if (url !== source.url && !source.allows(url)) continue
    for (const passage of passagesOf(titled(outline, url), url)) {
      if (passages.push(passage) > MAX_PASSAGES) throw new PageError('too_large')
    }
  }
  const [first] = passages
  if (first === undefined) throw new PageError('empty')
  const language = pages[0]?.outline.language ?? null
  return { title: first.title, language, validators, passages }
}

/** A page without a title is called by the end of its address. */
function titled(outline: Outline, { pathname, host }: URL): Outline {
  if (outline.title !== '') return outline
  const [name = ''] = pathname.split('/').filter(Boolean).slice(-1)
  return { ...outline, title: decoded(name) || host }
}
