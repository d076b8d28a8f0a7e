// Reading JSON, and writing it for responses. It is written on one line for every client: those that
// split lines like Python's str.splitlines also split at U+0085, U+2028 and U+2029, which
// JSON.stringify does not escape.

const LINE_SEPARATOR = /[\u0085\u2028\u2029]/
const ALL_LINE_SEPARATORS = /[\u0085\u2028\u2029]/g

/** `value` as one line of JSON. */
export function toJson(value: unknown): string {
  const json = JSON.stringify(value)
  return LINE_SEPARATOR.test(json) ? json.replace(ALL_LINE_SEPARATORS, escaped) : json
}

/** A UTF-16 unit as JSON can write it. */
export function escaped(unit: string): string {
  return `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`
}

/** The parsed value; undefined if the text is not JSON. */
export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

/** An object of JSON. */
export type Table = Readonly<Record<string, unknown>>

/** Whether a value is an object with named members. */
export function isRecord(value: unknown): value is Table {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** Whether a value is a whole number that is not negative. */
export function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0
}

/** An object with these names and what becomes of their values. */
export function mapped<In, Out>(
  entries: Iterable<readonly [string, In]>,
  map: (value: In) => Out,
): Record<string, Out> {
  return Object.fromEntries([...entries].map(([name, value]) => [name, map(value)]))
}
