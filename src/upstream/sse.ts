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

const PLAIN_START = 'data: '
const PLAIN_END = '\n\n'

/**
 * Takes text in pieces and returns complete messages. Most upstreams send nothing but plain events,
 * of one line that begins with `data: `, which are read without the parser. From the first event of
 * any other form on, the parser reads everything.
 */
export class SseReader {
  readonly #parser: EventSourceParser
  #messages: SseMessage[] = []
  #isPlain = true
  /** No event has been read yet. */
  #isStart = true
  /** `#held` begins with `data: `. */
  #isInEvent = false
  /** The beginning of a plain event, or a line that the parser would drop. */
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
    if (this.#isPlain) this.#readPlain(text)
    else this.#parse(text)
    if (this.#held.length > this.#maxChars) throw new SseOverflow('message too long')
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

  #readPlain(piece: string): void {
    // A long event may come in many pieces: what is held is not searched again and again.
    if (this.#isInEvent && !LINE_END.test(piece)) {
      this.#held += piece
      return
    }
    const text = this.#held + piece
    this.#held = ''
    for (let at = 0; at < text.length; ) {
      const end = text.indexOf(PLAIN_END, at)
      const event = text.slice(at, end === -1 ? text.length : end)
      if (end === -1 ? !mayBePlain(event) : !isPlain(event)) {
        this.#isPlain = false
        // The parser ignores a byte order mark at the start.
        if (!this.#isStart) this.#parser.feed('\n')
        this.#parse(text.slice(at))
        return
      }
      if (end === -1) {
        this.#held = event
        this.#isInEvent = event.startsWith(PLAIN_START)
        return
      }
      this.#messages.push({ event: null, data: event.slice(PLAIN_START.length) })
      this.#isStart = false
      at = end + PLAIN_END.length
    }
    this.#isInEvent = false
  }

  #parse(text: string): void {
    const ready = this.#withhold(this.#held + text)
    if (ready !== '') this.#parser.feed(ready)
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

const LINE_END = /[\r\n]/

/** Whether a whole event has one line, which begins with `data: `. */
function isPlain(event: string): boolean {
  return event.startsWith(PLAIN_START) && !LINE_END.test(event)
}

/** Whether this can be the beginning of a plain event. */
function mayBePlain(start: string): boolean {
  if (start.length < PLAIN_START.length) return PLAIN_START.startsWith(start)
  // Its last character may be the first of the two line ends.
  return isPlain(start.endsWith('\n') ? start.slice(0, -1) : start)
}
