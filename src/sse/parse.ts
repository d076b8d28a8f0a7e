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

export interface SseOptions {
  /** Longest event kept in memory, in characters. */
  readonly maxMessageChars: number
}

/** Feed it text as it comes; it hands back whole messages. */
export class SseReader {
  readonly #parser: EventSourceParser
  #messages: SseMessage[] = []
  #overflow = false

  constructor({ maxMessageChars }: SseOptions) {
    this.#parser = createParser({
      maxBufferSize: maxMessageChars,
      onEvent: ({ event, data }) => this.#messages.push({ event: event ?? null, data }),
      onError: (error) => {
        if (error.type === 'max-buffer-size-exceeded') this.#overflow = true
        // llama.cpp builds before #16486 send a failure as a field of its own: `error: {…}`.
        else if (error.field === 'error') {
          this.#messages.push({ event: 'error', data: error.value ?? '' })
        }
      },
    })
  }

  /** @throws SseOverflow when a message is longer than `maxMessageChars`. */
  feed(text: string): readonly SseMessage[] {
    if (text !== '') this.#parser.feed(text)
    return this.#take()
  }

  /**
   * The body is over. The standard discards an event without its blank line; real servers end with
   * `data: [DONE]` and nothing after it (KoboldCpp), so a last line is completed here and the
   * adapter judges whether it makes sense. A trailing CR completes its line, too.
   */
  end(): readonly SseMessage[] {
    this.#parser.feed('\n\n')
    return this.#take()
  }

  #take(): readonly SseMessage[] {
    if (this.#overflow) throw new SseOverflow('message too long')
    const messages = this.#messages
    this.#messages = []
    return messages
  }
}
