// Messages about invalid values, in one grammar: `Cannot use "x": expected …, got …`. Used for both
// the configuration and requests.
import * as v from 'valibot'

/** Why images, audio and tools are refused. */
export const TEXT_ONLY = 'this endpoint takes text only'

/** An error at one path, such as `models[0].upstream`. */
export interface Fault {
  readonly path: string
  readonly message: string
}

const SHOWN_CHARS = 40
/** Paths whose values are never shown, since they may hold a secret. GET /health is public. */
const NEVER_SHOWN = /(^|\.)(key|auth)$/

/** A value as shown in an error: short, without the contents of structures, and secrets masked. */
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
/** Least length of a part that mixes letters and digits; in model names they are shorter. */
const MIXED_CHARS = 8
/** The greatest share of capital letters in a name such as `summarisePageForBeginners`. */
const CAPITALS_IN_NAMES = 0.3

/**
 * Whether a text contains something like a key: `sk-…`, `AKIA…`, a word of at least 20 letters and
 * digits with a part of at least 8 that mixes both, 20 letters in random case (`hf_…`), or 40
 * characters of base64 (AWS).
 */
export function looksSecret(text: string): boolean {
  if (/(?<![A-Za-z0-9])(?:[spr]k[-_][\w-]|AKIA[A-Z0-9])/.test(text)) return true
  for (const [run] of text.matchAll(/[A-Za-z]{20,}/g)) {
    const capitals = run.replace(/[a-z]/g, '').length / run.length
    if (capitals > CAPITALS_IN_NAMES && capitals < 1 - CAPITALS_IN_NAMES) return true
  }
  for (const [run] of text.matchAll(/[A-Za-z0-9/+]{40,}/g)) {
    if (/[A-Z]/.test(run) && /[a-z]/.test(run) && /[0-9]/.test(run)) return true
  }
  for (const [word] of text.matchAll(/[\w+=-]{20,}/g)) {
    const parts = word.match(/[A-Za-z0-9]+/g) ?? []
    const isMixed = (part: string) =>
      part.length >= MIXED_CHARS && /[A-Za-z]/.test(part) && /[0-9]/.test(part)
    if (parts.join('').length >= SECRET_CHARS && parts.some(isMixed)) return true
  }
  return false
}

/** The text itself; if it looks like a secret, only enough of it to recognise it. */
export function masked(text: string): string {
  if (!looksSecret(text)) return text
  return `${text.slice(0, 3).toWellFormed()}… (${text.length} characters)`
}

type Path = readonly { readonly key?: unknown }[]

/**
 * The path of a valibot issue, such as `models[0].upstream`; "" for the whole value. Keys are masked,
 * too: one may be a secret that was pasted in the wrong place.
 */
function pathOf(path: Path | undefined): string {
  let text = ''
  for (const { key } of path ?? []) {
    if (typeof key === 'number') text += `[${key}]`
    else text += `${text === '' ? '' : '.'}${masked(String(key))}`
  }
  return text
}

/** The faults of a failed parse, one for each path. */
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
  const actual = NEVER_SHOWN.test(path) ? '' : `, got ${actualValue(issue)}`
  return `Cannot use ${name}: expected ${expectation(issue)}${actual}`
}

/** Our schemas have their expectation as message; for others, valibot's `expected` type is used. */
function expectation(issue: v.BaseIssue<unknown>): string {
  return issue.message.startsWith('Invalid ') ? (issue.expected ?? 'another value') : issue.message
}

function actualValue(issue: v.BaseIssue<unknown>): string {
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
      : min === max
        ? `${min}`
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
    v.minValue(min, expected),
    // Without a bound, Infinity would be a number, too.
    v.maxValue(Math.min(max, Number.MAX_VALUE), expected),
  )
}

/** Well-formed text of `min` to `max` UTF-16 units. UTF-8 encodes all lone surrogates alike. */
export function text(min: number, max: number) {
  return v.pipe(
    v.string('a string'),
    v.check((value) => value.isWellFormed(), 'well-formed Unicode'),
    v.minLength(min, min === 1 ? 'a string that is not empty' : `at least ${min} characters`),
    v.maxLength(max, `at most ${max} characters`),
  )
}

/** A list of at least one item. */
export function listOf<const Item extends v.GenericSchema>(item: Item) {
  return v.pipe(v.array(item), v.minLength(1, 'at least one item'))
}

/** One of a list of strings. */
export function oneOf<const T extends string>(values: readonly T[]) {
  return v.picklist(values, `one of ${values.join(', ')}`)
}

/**
 * An object of items by name. Unlike `v.record`, it does not leave out those called "constructor",
 * "prototype" or "__proto__".
 */
export function byName<
  const Name extends v.GenericSchema<string>,
  const Item extends v.GenericSchema,
>(name: Name, item: Item, message?: string) {
  const schema = v.record(name, item, message)
  const run: (typeof schema)['~run'] = (dataset, config) => {
    const { value: input } = dataset
    if (typeof input !== 'object' || input === null) return schema['~run'](dataset, config)
    const issues: v.BaseIssue<unknown>[] = []
    let typed = true
    const entries = Object.entries(input).map(([key, value]) => {
      const at = { type: 'object', origin: 'value', input, key, value } as v.IssuePathItem
      const parsed = (part: v.GenericSchema, given: unknown): unknown => {
        const result = part['~run']({ value: given }, config)
        for (const issue of result.issues ?? []) {
          issues.push({ ...issue, path: [at, ...(issue.path ?? [])] })
        }
        typed &&= result.typed
        return result.value
      }
      return [parsed(name, key), parsed(item, value)]
    })
    const value = Object.fromEntries(entries)
    return { typed, value, ...(issues.length > 0 && { issues }) } as ReturnType<typeof run>
  }
  return { ...schema, '~run': run }
}
