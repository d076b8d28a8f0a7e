// The texts of pages as they were last read. Kept in this isolate and in KV, so that an answer made
// of a page is found without reading the page, also when the page has gone or changed since. A
// changed text is written when an answer made of it is there (`keep`), not before: until then
// visitors find the old one.
import { type PageText, pageText } from '../completion/page-text.ts'
import type { PageFault } from '../events.ts'
import { RecentMap } from '../recent.ts'
import { type FetchContext, type FetchOptions, fetchPage, PageError } from './fetch.ts'
import {
  createRecord,
  type PageRecord,
  parseRecord,
  type RecordOwner,
  recordKey,
} from './record.ts'

/** How long a record that is seen to be right may go without being written again. */
const RENEW_S = 86_400
/** After a failed look, the old text serves so long without another one. */
const REST_S = 60
/** While one looks, the others go on with the old text: as long as looking and asking may take. */
const LOOKING_S = 10
/** For the texts in an isolate. */
const MEMORY_BYTES = 4_194_304
/** Of a record besides its text. */
const RECORD_BYTES = 1000

/** A page to be read, which may be read. */
export interface Page extends FetchOptions, RecordOwner {
  /** How long a text is good without another look at the page. */
  readonly freshSeconds: number
  /** How long any answer made of it may be served, from the last look at it. */
  readonly keepSeconds: number
}

/** Who looks, and so how far. */
export interface Look {
  /**
   * May the page be fetched now? Asked only where it would be. Null: it may not, whatever is kept.
   *
   * @throws what the asker shall hear where there is no text without it
   */
  readonly mayFetch: (() => Promise<void>) | null
  /** Always looks at the page, and hears of it when that fails. */
  readonly thorough: boolean
  /** Told why a page could not be read, also where an older text does. */
  readonly failed: (fault: PageFault) => void
}

/** @param isFound whether visitors find the answer made of it; else an older text is not given up */
export type Keep = (isFound: boolean) => void

export interface Read {
  readonly text: PageText
  /** Makes a new text the one that is kept. Null: it is. */
  readonly keep: Keep | null
}

/** Where records outlive the isolate. Its troubles are its own: it never throws, nor is it slow. */
export interface PageStore {
  get<T>(key: string, parse: (text: string) => T | null): Promise<T | null>
  put(key: string, value: string, ttlSeconds: number): Promise<boolean>
}

export interface PagesOptions {
  /** How long this isolate goes without looking what others have written. */
  readonly memorySeconds: number
}

export interface PagesContext extends FetchContext {
  readonly store: PageStore
  /** Takes one of the day's KV writes. Never rejects. */
  readonly mayWrite: () => Promise<boolean>
  readonly now: () => number
  readonly waitUntil: (work: Promise<unknown>) => void
}

interface Kept {
  readonly record: PageRecord
  readonly text: PageText
  /** In unix seconds: when KV was last looked at, and until when the page is not, as it just was. */
  readonly storeSeenAt: number
  readonly restUntil: number
}

export class Pages {
  readonly #options: PagesOptions
  readonly #context: PagesContext
  readonly #memory = new RecentMap<Kept>({
    maxBytes: MEMORY_BYTES,
    bytesOf: ({ record }) => 2 * record.text.length + RECORD_BYTES,
  })

  constructor(options: PagesOptions, context: PagesContext) {
    this.#options = options
    this.#context = context
  }

  /**
   * The text of a page; null where none is kept and the page may not be fetched.
   *
   * @throws PageError, and what `look.mayFetch` throws
   */
  async read(page: Page, { mayFetch, thorough, failed }: Look): Promise<Read | null> {
    const key = await recordKey(page)
    const kept = await this.#kept(key, page)
    if (mayFetch === null) return kept === null ? null : { text: kept.text, keep: null }
    if (kept !== null && !thorough) {
      const goodUntil = Math.max(kept.restUntil, kept.record.read_at + page.freshSeconds)
      if (this.#nowS() < goodUntil) return { text: kept.text, keep: null }
    }
    try {
      await mayFetch()
      if (kept !== null && !thorough) this.#rest(key, kept, LOOKING_S)
      return await this.#fetch(key, page, kept)
    } catch (error) {
      if (error instanceof PageError) failed(error.fault)
      if (kept === null || thorough) throw error
      // Better than nothing. Who was not allowed to look keeps nobody else from it.
      if (error instanceof PageError) this.#rest(key, kept, REST_S)
      return { text: kept.text, keep: null }
    }
  }

  #rest(key: string, kept: Kept, seconds: number): void {
    // Somebody may have read the page since.
    const latest = this.#memory.get(key) ?? kept
    this.#memory.set(key, { ...latest, restUntil: this.#nowS() + seconds })
  }

  async #fetch(key: string, page: Page, kept: Kept | null): Promise<Read> {
    const fetched = await fetchPage(page.url, kept?.record ?? null, page, this.#context)
    const nowS = this.#nowS()
    if (kept !== null && (fetched.kind === 'unchanged' || fetched.text === kept.record.text)) {
      const validators = fetched.kind === 'read' ? fetched.validators : {}
      const record = { ...kept.record, ...validators, read_at: nowS }
      this.#remember(key, record, kept.text)
      if (nowS - record.written_at >= RENEW_S) this.#write(key, page, record, kept.text)
      return { text: kept.text, keep: null }
    }
    if (fetched.kind === 'unchanged') throw new PageError('status')
    const text = await pageText(fetched.text)
    const record = createRecord(page, fetched, nowS)
    const keep = (isFound: boolean) => {
      if (!isFound && kept !== null) return
      // Another request for this page may have been quicker, and KV takes one write a second.
      if (this.#memory.get(key)?.record.text !== record.text) this.#write(key, page, record, text)
    }
    return { text, keep }
  }

  /** What this isolate has, or what KV has, if that is newer. */
  async #kept(key: string, page: Page): Promise<Kept | null> {
    const own = this.#memory.get(key)
    const nowS = this.#nowS()
    if (own !== null && nowS - own.storeSeenAt < this.#options.memorySeconds) return own
    const record = await this.#context.store.get(key, (text) => parseRecord(text, page))
    if (record === null || (own !== null && record.written_at <= own.record.written_at)) {
      if (own === null) return null
      const seen = { ...own, storeSeenAt: nowS }
      this.#memory.set(key, seen)
      return seen
    }
    return this.#remember(key, record, await pageText(record.text))
  }

  #remember(key: string, record: PageRecord, text: PageText): Kept {
    const kept = { record, text, storeSeenAt: this.#nowS(), restUntil: 0 }
    this.#memory.set(key, kept)
    return kept
  }

  #write(key: string, page: Page, record: PageRecord, text: PageText): void {
    const written = { ...record, written_at: this.#nowS() }
    this.#remember(key, written, text)
    this.#context.waitUntil(this.#store(key, written, page.keepSeconds + RENEW_S))
  }

  async #store(key: string, written: PageRecord, ttlSeconds: number): Promise<void> {
    const { store, mayWrite } = this.#context
    if ((await mayWrite()) && (await store.put(key, JSON.stringify(written), ttlSeconds))) return
    // Nobody else has it then: the next look at the page tries again.
    const kept = this.#memory.get(key)
    if (kept?.record !== written) return
    this.#memory.set(key, { ...kept, record: { ...written, written_at: 0 } })
  }

  #nowS(): number {
    return Math.floor(this.#context.now() / 1000)
  }
}
