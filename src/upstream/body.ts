// An upstream's body as text: counted, watched, and gathered. Each piece that is passed on costs a
// dozen promises on its way to the readers, and a busy upstream sends many in a millisecond; so a
// piece that comes right after another waits that long for more. Knows no format.
import { upstreamFailure } from './failure.ts'
import type { Watchdog } from './watchdog.ts'

/** Coalescing window: chunks that an upstream sends together are delivered together. */
export const GATHER_MS = 2

export interface BodyOptions {
  readonly maxBytes: number
  /** A piece that comes sooner after the one before waits so long for others; 0: none waits. */
  readonly gatherMs: number
  readonly now: () => number
}

export class BodyReader {
  readonly maxBytes: number
  readonly #options: BodyOptions
  readonly #reader: ReadableStreamDefaultReader<Uint8Array>
  readonly #watchdog: Watchdog
  /**
   * One for the whole body: characters may be split anywhere. Keeps byte order marks: workerd's would
   * drop one wherever a piece begins with it, inside a text too (see `#add`).
   */
  readonly #decoder = new TextDecoder('utf-8', { fatal: false, ignoreBOM: true })
  #bytes = 0
  /** Nothing of the body has been decoded yet. */
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
    this.#options = options
    this.maxBytes = options.maxBytes
    // Not every body knows the request's signal; a cancelled reader ends its pending read.
    watchdog.signal.addEventListener('abort', () => this.cancel(), { once: true })
  }

  /** The first character that is neither white space nor a byte order mark; "" if there is none. */
  async start(): Promise<string> {
    let text = ''
    for (let piece = await this.next(); piece !== null; piece = await this.next()) {
      text += piece
      const start = text.trimStart()
      if (start === '') continue
      this.#text = text + this.#text
      // Put back, it has come after nothing.
      this.#takenAt = Number.NEGATIVE_INFINITY
      return start.charAt(0)
    }
    return ''
  }

  /** The text that has come; null when the body is over. */
  async next(): Promise<string | null> {
    await this.#arrival()
    if (this.#text === '') {
      if (this.#end?.failure) throw this.#end.failure
      return null
    }
    const text = this.#text
    this.#text = ''
    this.#takenAt = this.#options.now()
    return text
  }

  /** The body as JSON, or as text where it is none; null where it is longer than `maxBytes`. */
  async jsonOrText(maxBytes: number): Promise<unknown> {
    let text = ''
    for (let piece = await this.next(); piece !== null; piece = await this.next()) {
      text += piece
      if (this.#bytes > maxBytes) return null
    }
    try {
      return JSON.parse(text)
    } catch {
      return text
    }
  }

  /** Lets go of the connection. Safe to call at any time, and twice. */
  cancel(): void {
    this.#reader.cancel().catch(() => {})
  }

  /** Until there is something to take, or never will be. */
  #arrival(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve
      if (this.#bytes > 0) this.#watchdog.alive()
      if (this.#text !== '' || this.#end !== null) this.#arrived()
      else this.#read()
    })
  }

  #arrived(): void {
    // Read ahead: it is kept for who asks next.
    if (this.#wake === null) return
    const { gatherMs, now } = this.#options
    const isDue = this.#text !== '' && now() - this.#takenAt >= gatherMs
    if (this.#end !== null || (isDue && this.#timer === null)) {
      this.#hand()
      return
    }
    if (this.#text !== '') this.#timer ??= setTimeout(() => this.#hand(), gatherMs)
    this.#watchdog.alive()
    this.#read()
  }

  #hand(): void {
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
        if (done) this.#over(null)
        else this.#add(value)
        this.#arrived()
      },
      // A connection that breaks, or a body that cannot be decompressed.
      (error: unknown) => {
        this.#reading = false
        const broken = this.#bytes === 0 ? 'unavailable' : 'truncated'
        this.#over(
          error instanceof TypeError
            ? upstreamFailure('bad_response', { code: 'undecodable' })
            : upstreamFailure(broken),
        )
        this.#arrived()
      },
    )
  }

  #add(value: Uint8Array): void {
    this.#bytes += value.byteLength
    if (this.#bytes > this.maxBytes) {
      this.#over(upstreamFailure('bad_response', { code: 'too_large' }))
    } else {
      const text = this.#decoder.decode(value, { stream: true })
      // The body's own mark (Encoding, 6.1) is no part of it.
      this.#text += this.#isStart && text.startsWith('\ufeff') ? text.slice(1) : text
      if (text !== '') this.#isStart = false
    }
  }

  #over(failure: unknown): void {
    const { aborted, reason } = this.#watchdog.signal
    this.#end = { failure: aborted ? reason : failure }
    if (failure === null && !aborted) this.#text += this.#decoder.decode()
  }
}
