// JSON as it leaves the Worker. It is a line of text for many readers, and those that split lines as
// Python's str.splitlines does also split at U+0085, U+2028 and U+2029, which JSON.stringify leaves raw.

const LINE_SEPARATOR = /[\u0085\u2028\u2029]/
const ALL_LINE_SEPARATORS = /[\u0085\u2028\u2029]/g

/** `value` as one line of JSON. Escaped only where needed: the test costs next to nothing. */
export function toJson(value: unknown): string {
  const json = JSON.stringify(value)
  return LINE_SEPARATOR.test(json) ? json.replace(ALL_LINE_SEPARATORS, escaped) : json
}

function escaped(separator: string): string {
  return `\\u${separator.charCodeAt(0).toString(16).padStart(4, '0')}`
}
