// Reads an upstream's body as text, with a size limit and timeouts, independent of its format.
// Every chunk that is passed on costs a dozen promises on its way to the readers, and a busy
// upstream sends many per millisecond; so chunks that arrive shortly after each other are delivered
// together.
import { parseJson } from '../json.ts'
import { upstreamFailure } from './failure.ts'
import type { Watchdog } from './watchdog.ts'

/** Coalescing window: chunks that an upstream sends together are delivered together. */
export const GATHER_MS = 2

export interface BodyOptions {
  readonly maxBytes: number
  /** Coalescing window: chunks that arrive within it are delivered together. 0 disables it. */
  readonly gatherMs: number
  readonly now: () => number
}

export class BodyReader {
  readonly options: BodyOptions
  readonly #reader: ReadableStreamDefaultReader<Uint8Array>
  readonly #watchdog: Watchdog
  /**
   * One decoder for the whole body, since chunks may split a character. It keeps byte order marks:
   * workerd's decoder would also drop one in the middle of a text, if a chunk begins with it.
   * `#add` drops the one at the start.
   */
  readonly #decoder = new TextDecoder('utf-8', { fatal: false, ignoreBOM: true })
  #bytes = 0
  /** No text has been decoded yet. */
  #isStart = true
  #text = ''
  #takenAt = Number.NEGATIVE_INFINITY
  #end: { readonly failure: unknown } | null = null
  #reading = false
  #timer: ReturnType<typeof setTimeout> | null = null
  #wake: (() => void) | null = null

  constructor(stream: ReadableStream<Uint8Array>, watchdog: Watchdog, options: BodyOptions) {
    this.#reader = stream.getReader()
    this.#watchdog = watchdog
    this.options = options
    // Not every body observes the request's signal. Cancelling the reader ends its pending read.
    if (watchdog.signal.aborted) this.cancel()
    watchdog.signal.addEventListener('abort', () => this.cancel(), { once: true })
  }

  /**
   * The first character that is not white space or a byte order mark; "" if the body ends before.
   */
  async start(): Promise<string> {
    let text = ''
    for (let piece = await this.next(); piece !== null; piece = await this.next()) {
      text += piece
      const start = text.trimStart()
      if (start === '') continue
      this.#text = text + this.#text
      // The text was put back, so the next read must not wait for more.
      this.#takenAt = Number.NEGATIVE_INFINITY
      return start.charAt(0)
    }
    return ''
  }

  /** The next text; null at the end of the body. */
  async next(): Promise<string | null> {
    await this.#textOrEnd()
    if (this.#text === '') {
      if (this.#end?.failure) throw this.#end.failure
      return null
    }
    const text = this.#text
    this.#text = ''
    this.#takenAt = this.options.now()
    return text
  }

  /** The body as JSON, or as text if it is not JSON; null if it is longer than `maxBytes`. */
  async jsonOrText(maxBytes: number): Promise<unknown> {
    let text = ''
    for (let piece = await this.next(); piece !== null; piece = await this.next()) {
      text += piece
      if (this.#bytes > maxBytes) return null
    }
    const parsed = parseJson(text)
    return parsed === undefined ? text : parsed
  }

  /** Closes the connection. May be called at any time and more than once. */
  cancel(): void {
    this.#reader.cancel().catch(() => {})
  }

  /** Resolves when there is text, or the body has ended. */
  #textOrEnd(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve
      if (this.#bytes > 0) this.#watchdog.alive()
      if (this.#text !== '' || this.#end !== null) this.#deliver()
      else this.#read()
    })
  }

  #deliver(): void {
    // Read ahead: the text waits for the next call of `next`.
    if (this.#wake === null) return
    const { gatherMs, now } = this.options
    const isDue = this.#text !== '' && now() - this.#takenAt >= gatherMs
    if (this.#end !== null || (isDue && this.#timer === null)) {
      this.#resolve()
      return
    }
    if (this.#text !== '') this.#timer ??= setTimeout(() => this.#resolve(), gatherMs)
    this.#watchdog.alive()
    this.#read()
  }

  #resolve(): void {
    if (this.#timer !== null) clearTimeout(this.#timer)
    this.#timer = null
    this.#watchdog.rest()
    const wake = this.#wake
    this.#wake = null
    wake?.()
  }

  #read(): void {
    if (this.#reading) return
    this.#reading = true
    this.#reader.read().then(
      ({ done, value }) => {
        this.#reading = false
        if (done) this.#finish(null)
        else this.#add(value)
        this.#deliver()
      },
      // The connection was lost, or the body cannot be decompressed.
      (error: unknown) => {
        this.#reading = false
        const kind = this.#bytes === 0 ? 'unavailable' : 'truncated'
        this.#finish(
          error instanceof TypeError
            ? upstreamFailure('bad_response', { code: 'undecodable' })
            : upstreamFailure(kind),
        )
        this.#deliver()
      },
    )
  }

  #add(value: Uint8Array): void {
    this.#bytes += value.byteLength
    if (this.#bytes > this.options.maxBytes) {
      this.#finish(upstreamFailure('bad_response', { code: 'too_large' }))
    } else {
      const text = this.#decoder.decode(value, { stream: true })
      // A byte order mark at the start is not part of the text (Encoding Standard, 6).
      this.#text += this.#isStart && text.startsWith('\ufeff') ? text.slice(1) : text
      if (text !== '') this.#isStart = false
    }
  }

  #finish(failure: unknown): void {
    const { aborted, reason } = this.#watchdog.signal
    this.#end = { failure: aborted ? reason : failure }
    if (failure === null && !aborted) this.#text += this.#decoder.decode()
  }
}
