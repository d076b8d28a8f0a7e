// Incremental parser for server-sent events (HTML, 9.2.6) with bounded memory. It differs from the
// standard in two points: the last event needs no blank line (see `end`), and some lines that the
// standard ignores are read (see `DATA_LINE`). A byte order mark at the start is the decoder's to remove.

/** One server-sent event. */
export interface SseMessage {
  readonly event: string | null
  readonly data: string
}

export class SseOverflow extends Error {
  override readonly name = 'SseOverflow'
}

/** Nearly every line with data. The others are matched with `FIELD`, which takes longer. */
const DATA = 'data: '
/** A field, its colon, one space and its value. A comment is a field without a name. */
const FIELD = /^(data|event|id|retry|error|)(?:: ?(.*))?$/s

/**
 * A line that the standard ignores and that holds an object or the terminator: servers and proxies
 * put a byte order mark or white space before `data:`, write it in capitals or omit it. Ignored, it
 * would be missing in the middle of an answer.
 */
const DATA_LINE = /^\s*(?:data\s*:\s*)?(\{.*|\[DONE\]\s*)$/is

/** Takes text in pieces and returns complete messages. */
export class SseReader {
  readonly #maxChars: number
  #messages: SseMessage[] = []
  #event: string | null = null
  /** The data of the event so far; null: it has none. */
  #data: string | null = null
  /** The last line, which is incomplete. Of a comment only its colon is kept. */
  #line = ''
  /** The last line has ended with a CR, and its LF may follow. */
  #mayEndTwice = false

  /** @param maxChars the limit for one event */
  constructor(maxChars: number) {
    this.#maxChars = maxChars
  }

  /** @throws SseOverflow when a message is longer than `maxChars`. */
  feed(text: string): readonly SseMessage[] {
    if (text === '') return []
    const [first = '', ...others] = linesOf(this.#mayEndTwice ? text.replace(/^\n/, '') : text)
    this.#mayEndTwice = text.endsWith('\r')
    this.#extend(first)
    for (const line of others) {
      this.#read(this.#line)
      this.#line = ''
      this.#extend(line)
    }
    if (this.#line.length + (this.#data?.length ?? 0) > this.#maxChars) {
      throw new SseOverflow('message too long')
    }
    const messages = this.#messages
    this.#messages = []
    return messages
  }

  /**
   * Called at the end of the body. The standard discards an event without its blank line, but some
   * servers end with `data: [DONE]` and nothing after it (KoboldCpp). So this completes the last
   * line, and the adapter decides if it is valid.
   */
  end(): readonly SseMessage[] {
    return this.feed('\n\n\n')
  }

  /** A long line may come in many pieces, so what there is of it is not looked at again. */
  #extend(piece: string): void {
    if (this.#line === '') this.#line = piece.startsWith(':') ? ':' : piece
    else if (this.#line !== ':') this.#line += piece
  }

  #read(line: string): void {
    if (line === '') this.#complete()
    else if (line.startsWith(DATA)) this.#add(line.slice(DATA.length))
    else this.#readField(line)
  }

  #readField(line: string): void {
    const [, field, value = ''] = FIELD.exec(line) ?? []
    if (field === 'data') this.#add(value)
    else if (field === 'event') this.#event = value === '' ? null : value
    // llama.cpp before #16486 reports a failure in this field.
    else if (field === 'error') this.#messages.push({ event: field, data: value })
    else if (field === undefined) {
      const data = DATA_LINE.exec(line)?.[1]
      if (data !== undefined) this.#messages.push({ event: null, data })
    }
  }

  #add(value: string): void {
    this.#data = this.#data === null ? value : `${this.#data}\n${value}`
  }

  #complete(): void {
    if (this.#data !== null) this.#messages.push({ event: this.#event, data: this.#data })
    this.#event = this.#data = null
  }
}

/** The lines of a text. The last one is incomplete. */
const linesOf = (text: string) => text.split(text.includes('\r') ? /\r\n?|\n/ : '\n')
