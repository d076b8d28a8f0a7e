// Reads an upstream's body as text, with a size limit and timeouts, independent of its format.
import { GatewayError } from '../errors.ts'
import { parseJson } from '../json.ts'
import { upstreamFailure } from './failure.ts'
import type { Watchdog } from './watchdog.ts'

/** The next text of a body, never ""; null at its end, with the failure that ended it, if any. */
export interface BodyText {
  readonly text: string | null
  readonly broken: GatewayError | null
}

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
   *
   * @throws what ended the body
   */
  async start(): Promise<string> {
    let text = ''
    for (;;) {
      const next = await this.next()
      if (next.broken !== null) throw next.broken
      if (next.text === null) return ''
      text += next.text
      const start = text.trimStart()
      if (start === '') continue
      this.#ahead = text
      return start.charAt(0)
    }
  }

  /**
   * Reads on. One function for each chunk, since a stream has many.
   *
   * @throws the reason of the caller's signal: the text so far is not needed then
   */
  async next(): Promise<BodyText> {
    if (this.#ahead !== '') {
      const text = this.#ahead
      this.#ahead = ''
      return { text, broken: null }
    }
    const { signal } = this.#watchdog
    while (!this.#isOver) {
      let step: ReadableStreamReadResult<Uint8Array>
      try {
        step = await this.#reader.read()
      } catch (error) {
        return this.#broken(signal.aborted ? signal.reason : this.#lost(error))
      }
      if (signal.aborted) return this.#broken(signal.reason)
      const text = step.done ? this.#end() : this.#decoded(step.value)
      if (text === null) return this.#broken(upstreamFailure('bad_response', { code: 'too_large' }))
      if (text !== '') return { text, broken: null }
    }
    return { text: null, broken: null }
  }

  /** The body as JSON, or as text if it is not JSON; null if it is longer than `maxBytes`. */
  async jsonOrText(maxBytes: number): Promise<unknown> {
    let text = ''
    for (;;) {
      const next = await this.next()
      if (next.broken !== null) throw next.broken
      if (this.#bytes > maxBytes) return null
      if (next.text === null) break
      text += next.text
    }
    const parsed = parseJson(text)
    return parsed === undefined ? text : parsed
  }

  /** Closes the connection. May be called at any time and more than once. */
  cancel(): void {
    if (!this.#isOver) this.#reader.cancel().catch(() => {})
  }

  /** @throws the reason if it is not a failure of the upstream */
  #broken(reason: unknown): BodyText {
    if (reason instanceof GatewayError) return { text: null, broken: reason }
    throw reason
  }

  #end(): string {
    this.#isOver = true
    return this.#decoder.decode()
  }

  /** Null: there are too many bytes. */
  #decoded(value: Uint8Array): string | null {
    this.#bytes += value.byteLength
    if (this.#bytes > this.maxBytes) return null
    this.#watchdog.alive()
    const text = this.#decoder.decode(value, { stream: true })
    if (!this.#isStart || text === '') return text
    this.#isStart = false
    // A byte order mark at the start is not part of the text (Encoding Standard, 6).
    return text.startsWith('\ufeff') ? text.slice(1) : text
  }

  /** The connection was lost, or the body cannot be decompressed. */
  #lost(error: unknown): GatewayError {
    releaseFrames(error)
    if (error instanceof TypeError) return upstreamFailure('bad_response', { code: 'undecodable' })
    return upstreamFailure(this.#bytes === 0 ? 'unavailable' : 'truncated')
  }
}

/**
 * Until its stack is read, an error of workerd holds its call frames and so the body's reader. The stream of
 * that body holds the error: a reference cycle across two heaps, which is never collected while the
 * Durable Object runs.
 */
function releaseFrames(error: unknown): void {
  if (error instanceof Error) void error.stack
}
