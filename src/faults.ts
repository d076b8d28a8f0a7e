// Says in one grammar what is wrong with a value: `Cannot use "x": expected …, got …`.
// Serves the owner's configuration and the visitor's request; decides nothing about either.
import * as v from 'valibot'

/** One thing wrong, at one place: `models[0].upstream`. */
export interface Fault {
  readonly path: string
  readonly message: string
}

const SHOWN_CHARS = 40
/** Where somebody may have put a secret by mistake. GET /health is public. */
const NEVER_SHOWN = /(^|\.)(key|auth)$/

/** A value as an error may show it: short, and never the inside of a structure or a secret. */
export function preview(value: unknown): string {
  if (value === undefined) return 'nothing'
  if (Array.isArray(value)) return 'an array'
  if (typeof value === 'object' && value !== null) return 'an object'
  if (typeof value !== 'string') return String(value)
  if (looksSecret(value)) return `"${masked(value)}"`
  const cut = value.slice(0, SHOWN_CHARS).toWellFormed()
  return JSON.stringify(value.length > SHOWN_CHARS ? `${cut}…` : cut)
}

const SECRET_CHARS = 20
/** A part of a secret that mixes letters and digits; those of a model's name ("70b") are shorter. */
const MIXED_CHARS = 8

/**
 * Whether a text holds something that looks like a key: `sk-…`, `AKIA…`, or at least 20 letters and
 * digits in which a longer part mixes both.
 */
export function looksSecret(text: string): boolean {
  if (/(?<![A-Za-z0-9])(?:[spr]k[-_][\w-]|AKIA[A-Z0-9])/.test(text)) return true
  for (const [word] of text.matchAll(/[\w+=-]{20,}/g)) {
    const parts = word.match(/[A-Za-z0-9]+/g) ?? []
    const isMixed = (part: string) =>
      part.length >= MIXED_CHARS && /[A-Za-z]/.test(part) && /[0-9]/.test(part)
    if (parts.join('').length >= SECRET_CHARS && parts.some(isMixed)) return true
  }
  return false
}

/** A name, or of a text that looks like a secret as much as tells its owner which one it is. */
export function masked(text: string): string {
  if (!looksSecret(text)) return text
  return `${text.slice(0, 3).toWellFormed()}… (${text.length} characters)`
}

type Path = readonly { readonly key?: unknown }[]

/**
 * `models[0].upstream` for the path of a valibot issue; "" for the value as a whole. A key may be a
 * secret that was pasted in the wrong place.
 */
export function pathOf(path: Path | undefined): string {
  let text = ''
  for (const { key } of path ?? []) {
    if (typeof key === 'number') text += `[${key}]`
    else text += `${text === '' ? '' : '.'}${masked(String(key))}`
  }
  return text
}

/** Each place that a failed parse complains of, once, with a message in the house's grammar. */
export function faultsOf(issues: readonly v.BaseIssue<unknown>[]): Fault[] {
  const faults = new Map<string, Fault>()
  for (const issue of issues) {
    const path = pathOf(issue.path as Path | undefined)
    if (!faults.has(path)) faults.set(path, { path, message: messageOf(path, issue) })
  }
  return [...faults.values()]
}

function messageOf(path: string, issue: v.BaseIssue<unknown>): string {
  const name = path === '' ? 'the value' : `"${path}"`
  if (issue.type === 'strict_object' && issue.expected === 'never') {
    return `Cannot use ${name}: it is not a known setting`
  }
  if (issue.kind === 'schema' && issue.input === undefined) {
    return `Cannot find ${name}: it is required`
  }
  const shown = NEVER_SHOWN.test(path) ? '' : `, got ${got(issue)}`
  return `Cannot use ${name}: expected ${expectation(issue)}${shown}`
}

/** Our schemas carry what they expect as their message; a bare schema says its type. */
function expectation(issue: v.BaseIssue<unknown>): string {
  return issue.message.startsWith('Invalid ') ? (issue.expected ?? 'another value') : issue.message
}

function got(issue: v.BaseIssue<unknown>): string {
  const { input } = issue
  if (issue.type === 'max_length' && (typeof input === 'string' || Array.isArray(input))) {
    return String(input.length)
  }
  if (typeof input === 'string' && !input.isWellFormed()) return 'a lone surrogate'
  return preview(input)
}

/** A whole number from `min` to `max`. */
export function integer(min: number, max = Number.MAX_SAFE_INTEGER) {
  const expected =
    max === Number.MAX_SAFE_INTEGER && min >= 0
      ? `a whole number of at least ${min}`
      : `a whole number from ${min} to ${max}`
  return v.pipe(
    v.number(expected),
    v.safeInteger(expected),
    v.minValue(min, expected),
    v.maxValue(max, expected),
  )
}

/** A finite number from `min` to `max`. */
export function finite(min: number, max: number) {
  const expected =
    max === Number.POSITIVE_INFINITY ? `a number of at least ${min}` : `${min} to ${max}`
  return v.pipe(
    v.number(expected),
    v.finite(expected),
    v.minValue(min, expected),
    v.maxValue(max, expected),
  )
}

/** Well-formed text of `min` to `max` UTF-16 units. Lone surrogates would all hash alike. */
export function text(min: number, max: number) {
  return v.pipe(
    v.string('a string'),
    v.check((value) => value.isWellFormed(), 'well-formed Unicode'),
    v.minLength(min, min === 1 ? 'a string that is not empty' : `at least ${min} characters`),
    v.maxLength(max, `at most ${max} characters`),
  )
}

/** One of a few words. */
export function oneOf<const T extends string>(values: readonly T[]) {
  return v.picklist(values, `one of ${values.join(', ')}`)
}
