// What a server-sent message holds, before a wire reads it: JSON objects, the terminator, or nothing.
// Also the JSON lines that some servers send in place of events.

import { isRecord, upstreamFailure } from './failure.ts'
import type { SseMessage } from './sse.ts'

/** `[DONE]`, and the spellings of it that proxies and home-made servers use. */
const TERMINATOR = /^"?(?:\[done\]|done)"?$/i

/**
 * A keep-alive that was sent as data: a comment that a proxy has put behind `data:` (Vertex AI,
 * OpenRouter through gateways), a word, Python's or JavaScript's null, a bare time of day.
 */
const KEEP_ALIVE =
  /^(?::|["[(]?(?:ping|pong|lifetime[-_ ]?alive|heart[-_ ]?beat)\b|(?:null|none|nil|undefined)$|\d{4}-\d\d-\d\d[T ]\d\d:\d\d)/i

const keepAliveEvents: ReadonlySet<string> = new Set([
  'ping',
  'heartbeat',
  'keepalive',
  'keep-alive',
])

/** Whether an object says that it is nothing but a sign of life. */
export function isKeepAlive({ type }: Readonly<Record<string, unknown>>): boolean {
  return typeof type === 'string' && keepAliveEvents.has(type)
}

/**
 * The objects a message holds, mostly one. An event that holds nothing is an empty list.
 *
 * @throws GatewayError `upstream_bad_response` for data that is none of what is known
 */
export function objectsIn({
  event,
  data,
}: SseMessage): readonly Readonly<Record<string, unknown>>[] | 'end' {
  const text = data.trim()
  if (text.startsWith('{')) return [recordOf(parseJson(text))]
  if (text === '' || (event !== null && keepAliveEvents.has(event))) return []
  if (TERMINATOR.test(text)) return 'end'
  if (KEEP_ALIVE.test(text)) return []
  const value = parseJson(text)
  if (value === '') return []
  if (!Array.isArray(value)) return [recordOf(value)]
  return value.filter((item) => item !== null).map(recordOf)
}

function recordOf(value: unknown): Readonly<Record<string, unknown>> {
  if (!isRecord(value)) throw upstreamFailure('bad_response')
  return value
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    throw upstreamFailure('bad_response')
  }
}

/** Whether data is all there: JSON, the terminator, a keep-alive, or nothing. */
export function isComplete({ data }: SseMessage): boolean {
  const text = data.trim()
  return text === '' || TERMINATOR.test(text) || KEEP_ALIVE.test(text) || isJson(text)
}

function isJson(text: string): boolean {
  try {
    JSON.parse(text)
    return true
  } catch {
    return false
  }
}

/**
 * Some servers send event after event without the blank line between them, which the standard reads
 * as one event of several lines. Where a line is a whole object by itself, each line is a message.
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
  // The last `event:` line is what the parser has kept: it was the last event's.
  return lines.map((data, i) => ({ event: i === lines.length - 1 ? message.event : null, data }))
}

/** JSON lines (as Ollama's native endpoints stream) as messages; a `data:` before one is dropped. */
export class JsonLines {
  #rest = ''

  feed(text: string): readonly SseMessage[] {
    const lines = (this.#rest + text).split('\n')
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

/** Finds where the first JSON value of a growing text ends. The text begins with `{` or `[`. */
export class JsonEnd {
  #at = 0
  #depth = 0
  #isInString = false

  /** @returns the index after the value; null while it is not whole */
  find(text: string): number | null {
    for (; this.#at < text.length; this.#at++) {
      const char = text[this.#at]
      if (this.#isInString) {
        if (char === '\\') this.#at++
        else if (char === '"') this.#isInString = false
      } else if (char === '"') this.#isInString = true
      else if (char === '{' || char === '[') this.#depth++
      else if (char === '}' || char === ']') {
        this.#depth--
        if (this.#depth === 0) {
          this.#at++
          return this.#at
        }
      }
    }
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
