// Reads an upstream's body as text, with a size limit and timeouts, independent of its format.
import { parseJson } from '../json.ts'
import { upstreamFailure } from './failure.ts'
import type { Watchdog } from './watchdog.ts'

export class BodyReader {
  /** In bytes, after decompression. */
  readonly maxBytes: number
  readonly #reader: ReadableStreamDefaultReader<Uint8Array>
  readonly #watchdog: Watchdog
  /**
   * One decoder for the whole body, since chunks may split a character. It keeps byte order marks:
   * workerd's decoder would also drop one in the middle of a text, if a chunk begins with it.
   * `#decoded` drops the one at the start.
   */
  readonly #decoder = new TextDecoder('utf-8', { fatal: false, ignoreBOM: true })
  #bytes = 0
  /** No text has been decoded yet. */
  #isStart = true
  #isOver = false
  /** Text that `start` has read. */
  #ahead = ''

  constructor(stream: ReadableStream<Uint8Array>, watchdog: Watchdog, maxBytes: number) {
    this.#reader = stream.getReader()
    this.#watchdog = watchdog
    this.maxBytes = maxBytes
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
      this.#ahead = text
      return start.charAt(0)
    }
    return ''
  }

  /**
   * The next text, never ""; null at the end of the body.
   *
   * @throws the reason of the watchdog's signal, or GatewayError `upstream_unavailable`,
   *   `upstream_truncated` or `upstream_bad_response` if the connection or the encoding broke
   */
  async next(): Promise<string | null> {
    let text = this.#ahead
    this.#ahead = ''
    while (text === '' && !this.#isOver) text = await this.#read()
    return text === '' ? null : text
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
    if (!this.#isOver) this.#reader.cancel().catch(() => {})
  }

  async #read(): Promise<string> {
    const { signal } = this.#watchdog
    const { done, value } = await this.#reader.read().catch((error: unknown) => {
      throw signal.aborted ? signal.reason : this.#lost(error)
    })
    if (signal.aborted) throw signal.reason
    if (done) {
      this.#isOver = true
      return this.#decoder.decode()
    }
    this.#bytes += value.byteLength
    if (this.#bytes > this.maxBytes) throw upstreamFailure('bad_response', { code: 'too_large' })
    this.#watchdog.alive()
    return this.#decoded(value)
  }

  #decoded(value: Uint8Array): string {
    const text = this.#decoder.decode(value, { stream: true })
    if (!this.#isStart || text === '') return text
    this.#isStart = false
    // A byte order mark at the start is not part of the text (Encoding Standard, 6).
    return text.startsWith('\ufeff') ? text.slice(1) : text
  }

  /** The connection was lost, or the body cannot be decompressed. */
  #lost(error: unknown): unknown {
    if (error instanceof TypeError) return upstreamFailure('bad_response', { code: 'undecodable' })
    return upstreamFailure(this.#bytes === 0 ? 'unavailable' : 'truncated')
  }
}
