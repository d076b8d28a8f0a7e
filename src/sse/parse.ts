// Bytes → text → server-sent messages, bounded and incremental. Framing only: what a message means
// is its adapter's business. WHATWG HTML 9.2.6, with one deliberate relaxation (see `end`).
import { createParser, type EventSourceParser } from 'eventsource-parser'

/** One server-sent event. */
export interface SseMessage {
  readonly event: string | null
  readonly data: string
}

export class SseOverflow extends Error {
  override readonly name = 'SseOverflow'
}

/**
 * llama.cpp builds before #16486 send a failure as a field of its own: `error: {…}`. The parser
 * forgets an unfinished line that can become no standard field, so this one is kept until it ends.
 */
const ERROR_FIELD = 'error:'

export interface SseOptions {
  /** Longest event kept in memory, in characters. */
  readonly maxMessageChars: number
}

/** Feed it text as it comes; it hands back whole messages. */
export class SseReader {
  readonly #parser: EventSourceParser
  #messages: SseMessage[] = []
  #overflow = false
  #held = ''
  #lineStart = true
  readonly #maxChars: number

  constructor({ maxMessageChars }: SseOptions) {
    this.#maxChars = maxMessageChars
    this.#parser = createParser({
      maxBufferSize: maxMessageChars,
      onEvent: ({ event, data }) => this.#messages.push({ event: event ?? null, data }),
      onError: (error) => {
        if (error.type === 'max-buffer-size-exceeded') this.#overflow = true
        else if (error.field === 'error') {
          this.#messages.push({ event: 'error', data: error.value ?? '' })
        }
      },
    })
  }

  /** @throws SseOverflow when a message is longer than `maxMessageChars`. */
  feed(text: string): readonly SseMessage[] {
    const ready = this.#withhold(this.#held + text)
    if (this.#held.length > this.#maxChars) throw new SseOverflow('message too long')
    if (ready !== '') this.#parser.feed(ready)
    return this.#take()
  }

  /**
   * The body is over. The standard discards an event without its blank line; real servers end with
   * `data: [DONE]` and nothing after it (KoboldCpp), so a last line is completed here and the
   * adapter judges whether it makes sense. A trailing CR completes its line, too.
   */
  end(): readonly SseMessage[] {
    this.#parser.feed(`${this.#held}\n\n`)
    return this.#take()
  }

  /** All but an unfinished last line that may be an error field. */
  #withhold(text: string): string {
    const start = Math.max(text.lastIndexOf('\n'), text.lastIndexOf('\r')) + 1
    const atLineStart = start > 0 || this.#held !== '' || this.#lineStart
    const line = text.slice(start)
    const candidate = line.startsWith(ERROR_FIELD) || ERROR_FIELD.startsWith(line)
    const hold = atLineStart && line !== '' && candidate
    this.#held = hold ? line : ''
    this.#lineStart = atLineStart && line === ''
    return hold ? text.slice(0, start) : text
  }

  #take(): readonly SseMessage[] {
    if (this.#overflow) throw new SseOverflow('message too long')
    const messages = this.#messages
    this.#messages = []
    return messages
  }
}
