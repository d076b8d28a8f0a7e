// Extracts the valid parts of a value that a schema rejects, so that checks between settings can
// run and all errors are reported together. Works on the structure of any valibot schema.

import * as v from 'valibot'
import { isRecord, mapped } from '../json.ts'

/** The parts of valibot schemas that settings use. */
interface Node {
  readonly type: string
  readonly entries?: Readonly<Record<string, Node>>
  readonly item?: Node
  readonly key?: Node
  readonly value?: Node
  readonly options?: readonly Node[]
  readonly wrapped?: Node
}

/**
 * The value with each invalid part replaced by its default, or by an empty value ("", 0, false, {}
 * or []) if it is required.
 */
export function salvage<Schema extends v.GenericSchema>(
  schema: Schema,
  value: unknown,
): v.InferOutput<Schema> {
  return validPart(schema as unknown as Node, value) as v.InferOutput<Schema>
}

function validPart(node: Node, value: unknown): unknown {
  const { success, output } = parsed(node, value)
  if (success) return output
  const table = isRecord(value) ? value : {}
  switch (node.type) {
    case 'optional': {
      const { wrapped = node } = node
      const isTable = isRecord(value) && ['strict_object', 'record'].includes(wrapped.type)
      const isList = Array.isArray(value) && wrapped.type === 'array'
      return isTable || isList ? validPart(wrapped, value) : parsed(node, undefined).output
    }
    case 'strict_object':
      return Object.fromEntries(
        Object.entries(node.entries ?? {}).map(([key, entry]) => [
          key,
          validPart(entry, Object.hasOwn(table, key) ? table[key] : undefined),
        ]),
      )
    case 'array':
      return Array.isArray(value) ? value.map((item) => validPart(node.item ?? node, item)) : []
    case 'record':
      return mapped(
        Object.entries(table).filter(
          ([key]) => node.key === undefined || parsed(node.key, key).success,
        ),
        (item) => validPart(node.value ?? node, item),
      )
    case 'union':
      return validPart(node.options?.at(-1) ?? node, value)
    case 'number':
      return 0
    case 'boolean':
      return false
    default:
      return ''
  }
}

function parsed(node: Node, value: unknown) {
  return v.safeParse(node as unknown as v.GenericSchema, value)
}
