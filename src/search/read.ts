// Reads a page of the owner's site into passages.
import type { Element } from '../html/node.ts'
import { parseSelectors } from '../html/selector.ts'
import {
  type FetchDeps,
  fetchPage,
  PageError,
  type PageSource,
  type Validators,
} from '../page/fetch.ts'
import { outlineOf } from './outline.ts'
import type { ReadPage } from './passage.ts'
import { type Outline, passagesOf } from './passages.ts'

/** A page to be indexed. */
export interface IndexSource extends PageSource {
  /** Which part of an HTML page is read: alternatives, of which the first that has text counts. */
  readonly selector: string
}

/** The limit for Markdown and text: `llms-full.txt` holds a whole site. */
const MAX_TEXT_BYTES = 8_388_608

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
  const outline =
    typeof document === 'string' ? textOutline(document) : outlineFor(document, source.selector)
  const passages = passagesOf(outline, source.url)
  if (passages.length === 0) throw new PageError('empty')
  return { title: outline.title, language: outline.language, validators, passages }
}

function outlineFor(document: Element, selector: string): Outline {
  return outlineOf(document, parseSelectors(selector) ?? [])
}

function textOutline(text: string): Outline {
  const blocks = text
    .split(/\n\s*\n/)
    .map((paragraph) => ({ kind: 'text' as const, text: paragraph.trim() }))
    .filter((block) => block.text !== '')
  return { title: '', language: null, blocks }
}
