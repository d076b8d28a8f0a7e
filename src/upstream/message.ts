// Reads the data of a server-sent event before the wire does: JSON objects, the terminator, or
// nothing. Also reads the JSON lines that some servers send instead of events.
import type { RawDelta } from '../completion/delta.ts'
import type { GatewayError } from '../errors.ts'
import { isRecord, parseJson, type Table } from '../json.ts'
import { upstreamFailure } from './failure.ts'
import type { SseMessage } from './sse.ts'

const END_WORD = '(?:done|end|eo[sf]|stop|finish(?:ed)?|completed?)'

/** `[DONE]`, as spelled by various proxies and servers. */
const TERMINATOR = new RegExp(
  `^["']?(?:${END_WORD}|\\[["'\\s]*${END_WORD}["'\\s]*\\]|</?(?:s|${END_WORD})>)["'.!]*$`,
  'i',
)

/** A keep-alive as data: a comment after `data:` (Vertex AI, OpenRouter), a word, null, a time. */
const KEEP_ALIVE =
  /^(?::|["[(]?(?:ping|pong|keep[-_ ]?alive|heart[-_ ]?beat)\b|(?:null|none|nil|undefined|[-.]+|(?:\w+ )?processing|waiting[. ]*|connected|\d{10,13})$|\d{4}-\d\d-\d\d[T ]\d\d:\d\d)/i

const KEEP_ALIVE_EVENT = /^(?:ping|pong|heart[-_]?beat|keep[-_]?alive)$/i

/** Whether an object is only a keep-alive. */
export function isKeepAlive({ type, event, object }: Table): boolean {
  return [type, event, object].some((name) => KEEP_ALIVE_EVENT.test(String(name)))
}

/** How a wire reads the messages of a stream. */
export interface MessageReader {
  readonly read: (object: Table) => readonly RawDelta[]
  readonly failureIn: (object: unknown) => GatewayError
  /** What the terminator adds. */
  readonly ends: readonly RawDelta[]
}

export const END: RawDelta = { kind: 'end' }

/**
 * The deltas of a message, which usually holds one object.
 *
 * @throws GatewayError what an error event reports, `upstream_bad_response` if the data is neither
 *   objects nor a terminator nor a keep-alive
 */
export function readMessage(message: SseMessage, reader: MessageReader): readonly RawDelta[] {
  const objects = objectsIn(message)
  const [first, second] = objects ?? []
  // The name of an event may report an error whose data has none.
  if (/(?:error|exception|failed)$/i.test(message.event ?? '')) throw reader.failureIn(first)
  if (objects === null) return reader.ends
  if (first !== undefined && second === undefined) return reader.read(first)
  return objects.flatMap(reader.read)
}

/** @internal The objects in a message; an empty list for a keep-alive, null for the terminator. */
export function objectsIn({ event, data }: SseMessage): readonly Table[] | null {
  if (event !== null && KEEP_ALIVE_EVENT.test(event)) return []
  const text = textOf(data)
  if (text.startsWith('{')) return [recordOf(parseJson(text))]
  if (text === '') return []
  if (TERMINATOR.test(text)) return null
  if (KEEP_ALIVE.test(text)) return []
  const value = parseJson(text)
  // Some proxies encode the data once more.
  if (typeof value === 'string') return objectsIn({ event, data: value })
  if (!Array.isArray(value)) return [recordOf(value)]
  return value.filter((item) => item !== null).map(recordOf)
}

export function recordOf(value: unknown): Table {
  if (!isRecord(value)) throw upstreamFailure('bad_response')
  return value
}

/** Data without the `data:` that proxies which frame events a second time put before it. */
function textOf(data: string): string {
  const text = data.trim()
  return text.startsWith('data:') ? text.replace(/^(?:data:\s*)+/, '') : text
}

/** Whether the data is complete: JSON, the terminator, a keep-alive, or nothing. */
export function isComplete({ data }: SseMessage): boolean {
  const text = textOf(data)
  if (text === '' || TERMINATOR.test(text) || KEEP_ALIVE.test(text)) return true
  return parseJson(text) !== undefined
}

/**
 * Separates events that lack the blank line between them, which the parser reads as one with several
 * lines: if the first line is complete by itself, each line is a message.
 */
export function separated(messages: readonly SseMessage[]): readonly SseMessage[] {
  return messages.some(({ data }) => data.includes('\n')) ? messages.flatMap(linesOf) : messages
}

function linesOf(message: SseMessage): readonly SseMessage[] {
  const lines = message.data.split('\n').filter((line) => line.trim() !== '')
  const [first] = lines
  if (lines.length < 2 || first === undefined || !isComplete({ event: null, data: first })) {
    return [message]
  }
  // The parser has the last `event:` line, which belongs to the last message.
  return lines.map((data, i) => ({ event: i === lines.length - 1 ? message.event : null, data }))
}

/** The values of a line that has lost the line ends or commas between them; one is left as it is. */
export function valuesOf(message: SseMessage): readonly SseMessage[] {
  const values: SseMessage[] = []
  let rest = textOf(message.data)
  while (rest.startsWith('{')) {
    const length = new JsonEnd().find(rest)
    if (length === null) break
    values.push({ ...message, data: rest.slice(0, length) })
    rest = textOf(rest.slice(length).replace(/^[\s,]+/, ''))
  }
  if (values.length === 0) return [message]
  return rest === '' ? values : [...values, { ...message, data: rest }]
}

/** Reads JSON lines (as Ollama's native API streams them) as messages, with or without `data:`. */
export class JsonLines {
  #rest = ''

  feed(text: string): readonly SseMessage[] {
    // A long line may come in many pieces.
    if (!/[\r\n]/.test(text)) {
      this.#rest += text
      return []
    }
    const lines = (this.#rest + text).split(/[\r\n]/)
    this.#rest = lines.pop() ?? ''
    return lines.flatMap(messageOf)
  }

  end(): readonly SseMessage[] {
    return messageOf(this.#rest)
  }
}

function messageOf(line: string): readonly SseMessage[] {
  const data = line.trim().replace(/^data:/, '')
  return data === '' ? [] : [{ event: null, data }]
}

/** Finds the end of the first JSON value of a text that begins with `{` or `[`. */
export class JsonEnd {
  #length = 0
  #depth = 0
  #isInString = false
  #isEscaped = false

  /**
   * @param piece the next piece of the text
   * @returns the length of the value in all pieces; null while the value is incomplete
   */
  find(piece: string): number | null {
    for (let i = 0; i < piece.length; i++) {
      const char = piece[i]
      if (this.#isEscaped) this.#isEscaped = false
      else if (this.#isInString) {
        if (char === '\\') this.#isEscaped = true
        else if (char === '"') this.#isInString = false
      } else if (char === '"') this.#isInString = true
      else if (char === '{' || char === '[') this.#depth++
      else if (char === '}' || char === ']') {
        this.#depth--
        if (this.#depth === 0) return this.#length + i + 1
      }
    }
    this.#length += piece.length
    return null
  }
}

/** The bytes of all strings in a value, those under `except` apart. */
export function bytesOfStrings(value: unknown, except: readonly string[] = []): number {
  if (typeof value === 'string') return new TextEncoder().encode(value).length
  if (typeof value !== 'object' || value === null) return 0
  let bytes = 0
  for (const [name, inner] of Object.entries(value)) {
    if (!except.includes(name)) bytes += bytesOfStrings(inner)
  }
  return bytes
}
