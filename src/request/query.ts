// Reads a request from a URL's query, so that a cached answer has a URL. Converts each text to the
// value that a JSON body would contain; schema.ts validates it.
import { GatewayError, invalidValue } from '../errors.ts'
import { parseJson } from '../json.ts'
import { preview } from '../validation.ts'
import { neutralValues } from './foreign.ts'
import { samplingFields } from './schema.ts'

const whole = ['max_tokens', 'n', 'best_of', 'seed', 'logprobs']
const numbers = new Set([...whole, ...Object.keys(samplingFields)])
const flags = new Set(['stream', 'echo'])
const strings = new Set(['prompt', 'model', 'suffix', 'user'])

/**
 * Converts `?prompt=…`, `?prompt_id=haiku&var.topic=sea` or `?stop=a&stop=b` to a request body.
 *
 * @throws GatewayError `unknown_field` or `invalid_value`.
 */
export function queryBody(search: string): Record<string, unknown> {
  refuseBrokenText(search)
  const query = new URLSearchParams(search)
  const body: Record<string, unknown> = {}
  const variables: [string, string][] = []
  let promptId: string | null = null
  for (const name of new Set(query.keys())) {
    const values = query.getAll(name)
    const [value = ''] = values
    if (name === 'stop') {
      body['stop'] = values
      continue
    }
    if (values.length > 1) throw invalidValue(name, 'expected once')
    if (name === 'prompt_id') promptId = value
    else if (name.startsWith('var.')) variables.push([name.slice('var.'.length), value])
    else if (numbers.has(name)) body[name] = numberOf(name, value)
    else if (flags.has(name)) body[name] = flagOf(name, value)
    else if (strings.has(name)) body[name] = value
    else if (neutralValues.has(name)) body[name] = literalOf(value)
    else throw unknownField(name)
  }
  if (promptId !== null) {
    if (body['prompt'] !== undefined) {
      throw invalidValue('prompt_id', 'it cannot be combined with "prompt"')
    }
    body['prompt'] = { id: promptId, variables: Object.fromEntries(variables) }
  } else if (variables.length > 0) {
    throw invalidValue('prompt_id', 'expected a prompt id with the variables, got nothing')
  }
  return body
}

/**
 * The fields of a query that has no others and none twice.
 *
 * @throws GatewayError `unknown_field` or `invalid_value`
 */
export function queryFields<Name extends string>(
  search: string,
  names: readonly Name[],
): Readonly<Partial<Record<Name, string>>> {
  refuseBrokenText(search)
  const query = new URLSearchParams(search)
  const fields: Partial<Record<string, string>> = {}
  for (const [name, value] of query) {
    if (!(names as readonly string[]).includes(name)) throw unknownField(name)
    if (Object.hasOwn(fields, name)) throw invalidValue(name, 'expected once')
    fields[name] = value
  }
  return fields as Partial<Record<Name, string>>
}

function unknownField(name: string): GatewayError {
  const message = `Cannot use ${preview(name)}: it is not a field of this endpoint's query`
  return new GatewayError('unknown_field', message, { param: name.slice(0, 64) })
}

/** URLSearchParams would decode all invalid UTF-8 to the same replacement character. */
function refuseBrokenText(search: string): void {
  for (const escaped of search.match(/(?:%[0-9a-f]{2})+/gi) ?? []) {
    try {
      decodeURIComponent(escaped)
    } catch {
      throw new GatewayError('invalid_value', 'Cannot read the query: it is not valid UTF-8')
    }
  }
}

/** Accepts only JSON numbers, so that a query and a JSON body allow the same values. */
function numberOf(name: string, value: string): number {
  if (!/^-?\d{1,17}(\.\d{1,30})?([eE][-+]?\d{1,3})?$/.test(value)) {
    throw invalidValue(name, `expected a number, got ${preview(value)}`)
  }
  return Number(value)
}

function flagOf(name: string, value: string): boolean {
  if (value !== 'true' && value !== 'false') {
    throw invalidValue(name, `expected true or false, got ${preview(value)}`)
  }
  return value === 'true'
}

/** The value of a field without a type here: parsed as JSON if possible, else text. */
function literalOf(value: string): unknown {
  const parsed = parseJson(value)
  return parsed === undefined ? value : parsed
}
