// JSON for responses, on one line for every client. Clients that split lines like Python's
// str.splitlines also split at U+0085, U+2028 and U+2029, which JSON.stringify does not escape.

const LINE_SEPARATOR = /[\u0085\u2028\u2029]/
const ALL_LINE_SEPARATORS = /[\u0085\u2028\u2029]/g

/** `value` as one line of JSON. */
export function toJson(value: unknown): string {
  const json = JSON.stringify(value)
  return LINE_SEPARATOR.test(json) ? json.replace(ALL_LINE_SEPARATORS, escaped) : json
}

function escaped(separator: string): string {
  return `\\u${separator.charCodeAt(0).toString(16).padStart(4, '0')}`
}
