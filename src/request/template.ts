// Locked prompts: fills the `{{placeholders}}` in the owner's text with the visitor's variables. In
// one pass, so that placeholders inside a variable's value are not filled.
import { GatewayError, invalidValue } from '../errors.ts'
import { preview } from '../validation.ts'

/** A variable filled with the text of a page of the owner's site. */
export interface PageVariable {
  readonly from: 'url'
  readonly paths: readonly string[]
  readonly selector: string
  readonly max_chars: number
  readonly page_seconds: number
}
/** A variable filled with the passages of the owner's site that match a question. */
export interface PassagesVariable {
  readonly from: 'site'
  /** The variable with the question; absent in chats, whose last messages are the question. */
  readonly about?: string | undefined
  /** The most passages. */
  readonly count: number
  readonly max_chars: number
}
/** A text of the visitor's, one of a list of values, the text of a page, or passages. */
export type Variable =
  | { readonly max_chars: number }
  | { readonly values: readonly string[] }
  | PageVariable
  | PassagesVariable
export type Variables = Readonly<Record<string, Variable>>

const PLACEHOLDER = /\{\{\s*([A-Za-z][A-Za-z0-9_]{0,63})\s*\}\}/g

/** The names of the placeholders in a text. */
export function placeholdersIn(template: string): Set<string> {
  return new Set([...template.matchAll(PLACEHOLDER)].map(([, name]) => name ?? ''))
}

/** Fills every placeholder; `values` must contain all of `placeholdersIn(template)`. */
export function render(template: string, values: ReadonlyMap<string, string>): string {
  return template.replaceAll(PLACEHOLDER, (_, name: string) => values.get(name) ?? '')
}

/** The passages among the variables, with their name; null if the prompt has no passages. */
export function passagesIn(variables: Variables): readonly [string, PassagesVariable] | null {
  for (const [name, variable] of Object.entries(variables)) {
    if (isPassages(variable)) return [name, variable]
  }
  return null
}

export const isPassages = (variable: Variable): variable is PassagesVariable =>
  'from' in variable && variable.from === 'site'

/**
 * Validates the visitor's variables. The value of a page variable is its address, which
 * page/rules.ts checks. Passages have no value of the visitor's.
 *
 * @param maxChars the limit for all variables together, in UTF-16 units
 * @param path of the variables in the request
 * @throws GatewayError `missing_field` or `invalid_value`; `param` is the path of the variable.
 */
export function parseVariables(
  given: Readonly<Record<string, unknown>>,
  variables: Variables,
  maxChars: number,
  path: string,
): Map<string, string> {
  const paramOf = (name: string) => variableParam(path, name)
  const sent = Object.entries(variables).filter(([, variable]) => !isPassages(variable))
  for (const name of Object.keys(given)) {
    if (!sent.some(([known]) => known === name)) {
      throw invalidVariable(
        paramOf(name),
        `the prompt has no such variable, it has ${listed(sent.map(([known]) => known))}`,
      )
    }
  }
  const values = new Map<string, string>()
  let chars = 0
  for (const [name, variable] of sent) {
    const value = Object.hasOwn(given, name) ? given[name] : null
    if (value === null || value === undefined) {
      throw new GatewayError(
        'missing_field',
        `Cannot find the variable "${name}": the prompt requires it`,
        { param: paramOf(name) },
      )
    }
    const filled = fill(paramOf(name), value, variable)
    // A page's text has its own limit, and its address is not sent to the model.
    if (!('from' in variable)) chars += filled.length
    values.set(name, filled)
  }
  if (chars > maxChars) {
    throw invalidValue(path, `expected at most ${maxChars} characters in total, got ${chars}`)
  }
  return values
}

function fill(param: string, value: unknown, variable: Variable): string {
  if (typeof value !== 'string') {
    throw invalidVariable(param, `expected a string, got ${preview(value)}`)
  }
  if (!value.isWellFormed()) throw invalidVariable(param, 'expected well-formed Unicode')
  if ('values' in variable) {
    if (variable.values.includes(value)) return value
    throw invalidVariable(
      param,
      `expected one of ${listed(variable.values)}, got ${preview(value)}`,
    )
  }
  if ('from' in variable) return value
  const { max_chars } = variable
  if (value.length <= max_chars) return value
  throw invalidVariable(param, `expected at most ${max_chars} characters, got ${value.length}`)
}

const listed = (words: readonly string[]) => (words.length === 0 ? 'none' : words.join(', '))

/** The path of a locked prompt's variables: a chat names the prompt as its model. */
export const variablesPath = ({ messages }: { readonly messages?: unknown }) =>
  messages === undefined ? 'prompt.variables' : 'variables'

/** The path of one variable. */
export const variableParam = (path: string, name: string) => `${path}.${name.slice(0, 64)}`

/** @param state what is wrong with the value */
export const invalidVariable = (param: string, state: string): GatewayError =>
  new GatewayError('invalid_value', `Cannot use ${preview(param)}: ${state}`, { param })
