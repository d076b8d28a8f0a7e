// Incremental parser for server-sent events (HTML, 9.2.6) with bounded memory. It differs from the
// standard in one point: the last event needs no blank line (see `end`).
import { createParser, type EventSourceParser, type ParseError } from 'eventsource-parser'

/** One server-sent event. */
export interface SseMessage {
  readonly event: string | null
  readonly data: string
}

export class SseOverflow extends Error {
  override readonly name = 'SseOverflow'
}

/**
 * A line that the standard ignores and that holds an object or the terminator: servers and proxies
 * put a byte order mark or white space before `data:`, write it in capitals or omit it. Ignored, it
 * would be missing in the middle of an answer. llama.cpp before #16486 reports a failure in a
 * field of its own: `error: {…}`.
 */
const DATA_LINE = /^\s*(?:data\s*:\s*)?(\{.*|\[DONE\]\s*)$/is

/** The lines that the parser buffers itself. */
const STANDARD_LINE = /^(?:data|event|id|retry)?:/

/** Takes text in pieces and returns complete messages. */
export class SseReader {
  readonly #parser: EventSourceParser
  #messages: SseMessage[] = []
  #held = ''
  #lineStart = true
  readonly #maxChars: number

  /** @param maxChars the limit for one event */
  constructor(maxChars: number) {
    this.#maxChars = maxChars
    this.#parser = createParser({
      maxBufferSize: maxChars,
      onEvent: ({ event, data }) => this.#messages.push({ event: event ?? null, data }),
      onError: (error) => {
        if (error.type === 'max-buffer-size-exceeded') throw new SseOverflow('message too long')
        this.#unknown(error)
      },
    })
  }

  /** @throws SseOverflow when a message is longer than `maxChars`. */
  feed(text: string): readonly SseMessage[] {
    const ready = this.#withhold(this.#held + text)
    if (this.#held.length > this.#maxChars) throw new SseOverflow('message too long')
    if (ready !== '') this.#parser.feed(ready)
    return this.#take()
  }

  /**
   * Called at the end of the body. The standard discards an event without its blank line, but some
   * servers end with `data: [DONE]` and nothing after it (KoboldCpp). So this completes the last
   * line, and the adapter decides if it is valid.
   */
  end(): readonly SseMessage[] {
    this.#parser.feed(`${this.#held}\n\n`)
    return this.#take()
  }

  #unknown({ field, value, line }: ParseError): void {
    const [, data] = DATA_LINE.exec(line ?? '') ?? []
    if (field === 'error') this.#messages.push({ event: 'error', data: value ?? '' })
    else if (data !== undefined) this.#messages.push({ event: null, data })
  }

  /**
   * Returns the text without an incomplete last line that the parser would drop, and holds that
   * line.
   */
  #withhold(text: string): string {
    const start = Math.max(text.lastIndexOf('\n'), text.lastIndexOf('\r')) + 1
    const atLineStart = start > 0 || this.#held !== '' || this.#lineStart
    const line = text.slice(start)
    const hold = atLineStart && line !== '' && !STANDARD_LINE.test(line)
    this.#held = hold ? line : ''
    this.#lineStart = atLineStart && line === ''
    return hold ? text.slice(0, start) : text
  }

  #take(): readonly SseMessage[] {
    const messages = this.#messages
    this.#messages = []
    return messages
  }
}
