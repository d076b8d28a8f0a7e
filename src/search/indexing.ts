// Indexes one page of the owner's site: fetches it, unless it is known to be unchanged, and replaces
// it in the index as a whole.
import { sha256 } from '../hash.ts'
import type { Validators } from '../page/fetch.ts'
import { canonicalAddressOf } from '../page/rules.ts'
import { isCollection } from './collection.ts'
import type { ReadPage } from './passage.ts'
import type { KnownPage, PageUpdate, PageVersion, StoredPage } from './site-index.ts'

/** Increase this when the same page would be cut into other passages. */
const READER_VERSION = 1

export interface IndexingDeps {
  readonly site: IndexingClient
  /** What is indexed: `site` in CONFIG. */
  readonly settings: { readonly paths: readonly string[]; readonly selector: string }
  /** @returns null if the page still matches the validators */
  readonly fetchPassages: (known: Validators | null) => Promise<ReadPage | null>
  /** Unix ms. */
  readonly now: () => number
}

/** The way to the index. */
export interface IndexingClient {
  page(name: string): Promise<KnownPage | null>
  put(update: PageUpdate): Promise<StoredPage | null>
}

/**
 * @param questions that the page answers; null: an unchanged page keeps its questions
 * @throws PageError, and what the index throws
 */
export async function indexPage(
  url: URL,
  questions: readonly string[] | null,
  deps: IndexingDeps,
): Promise<StoredPage> {
  const { site, settings, fetchPassages, now } = deps
  const name = canonicalAddressOf(url)
  const { paths, selector } = settings
  const others = isCollection(url) ? paths : []
  const readAs = JSON.stringify([READER_VERSION, selector, ...others])
  const known = await site.page(name)
  const put = async (read: PageVersion | null) =>
    await site.put({ name, url: url.href, read, questions, now: Math.floor(now() / 1000) })
  const fetched = async (validators: Validators | null) => {
    const page = await fetchPassages(validators)
    return page === null ? null : await versionOf(page, readAs)
  }
  const stored = await put(await fetched(known?.readAs === readAs ? known : null))
  // Null: it has been removed meanwhile, so that its passages are needed after all.
  return stored ?? ((await put(await fetched(null))) as StoredPage)
}

async function versionOf(page: ReadPage, readAs: string): Promise<PageVersion> {
  const { title, language, validators, passages } = page
  const hash = await sha256(JSON.stringify([readAs, title, language, passages]))
  return { title, language, validators, readAs, hash, passages }
}
