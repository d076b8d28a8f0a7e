// Locked prompts: the owner's text with `{{places}}`, the visitor's variables put in as data.
// One pass over the owner's text only: what a variable holds is never looked at for places.
import { GatewayError } from '../errors.ts'
import { preview } from '../faults.ts'

/** A variable that the visitor fills with text. */
export interface TextVariable {
  readonly max_chars: number
}
/** A variable that is one of the owner's words. */
export interface ListVariable {
  readonly values: readonly string[]
}
/** A variable that is a page of the owner's site. */
export interface PageVariable {
  readonly from: 'url'
  readonly paths: readonly string[]
  readonly selector: string
  readonly max_chars: number
  readonly page_seconds: number
}
export type Variable = TextVariable | ListVariable | PageVariable
export type Variables = Readonly<Record<string, Variable>>

const PLACE = /\{\{\s*([A-Za-z][A-Za-z0-9_]{0,63})\s*\}\}/g

/** The variables a text has places for. */
export function placesOf(template: string): Set<string> {
  return new Set([...template.matchAll(PLACE)].map(([, name]) => name ?? ''))
}

/** The owner's text with every place filled; `values` must have all of `placesOf(template)`. */
export function render(template: string, values: ReadonlyMap<string, string>): string {
  return template.replaceAll(PLACE, (_, name: string) => values.get(name) ?? '')
}

/**
 * The visitor's variables, checked against the owner's.
 *
 * @param maxChars of all variables together, in UTF-16 units
 * @throws GatewayError `missing_field` or `invalid_value`; `param` is `prompt.variables.<name>`.
 */
export function parseVariables(
  given: Readonly<Record<string, unknown>>,
  variables: Variables,
  maxChars: number,
): Map<string, string> {
  for (const name of Object.keys(given)) {
    if (!Object.hasOwn(variables, name)) {
      throw refuse(
        name,
        `the prompt has no such variable, it has ${listed(Object.keys(variables))}`,
      )
    }
  }
  const values = new Map<string, string>()
  let chars = 0
  for (const [name, variable] of Object.entries(variables)) {
    const value = Object.hasOwn(given, name) ? given[name] : null
    if (value === null || value === undefined) {
      throw new GatewayError(
        'missing_field',
        `Cannot find the variable "${name}": the prompt needs it`,
        { param: param(name) },
      )
    }
    const filled = fill(name, value, variable)
    chars += filled.length
    values.set(name, filled)
  }
  if (chars > maxChars) {
    throw new GatewayError(
      'invalid_value',
      `Cannot use "prompt.variables": expected at most ${maxChars} characters in all, got ${chars}`,
      { param: 'prompt.variables' },
    )
  }
  return values
}

function fill(name: string, value: unknown, variable: Variable): string {
  if (typeof value !== 'string') throw refuse(name, `expected a string, got ${preview(value)}`)
  if (!value.isWellFormed()) throw refuse(name, 'expected well-formed Unicode')
  if ('values' in variable) {
    if (variable.values.includes(value)) return value
    throw refuse(name, `expected one of ${listed(variable.values)}, got ${preview(value)}`)
  }
  if ('from' in variable) {
    throw new GatewayError(
      'page_unavailable',
      `Cannot use the variable "${name}": this gateway does not read pages yet`,
      { param: param(name) },
    )
  }
  if (value.length > variable.max_chars) {
    throw refuse(name, `expected at most ${variable.max_chars} characters, got ${value.length}`)
  }
  return value
}

const listed = (words: readonly string[]) => (words.length === 0 ? 'none' : words.join(', '))

const param = (name: string) => `prompt.variables.${name.slice(0, 64)}`

function refuse(name: string, state: string): GatewayError {
  return new GatewayError('invalid_value', `Cannot use ${preview(param(name))}: ${state}`, {
    param: param(name),
  })
}
