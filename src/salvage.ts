// The sound parts of a value that a schema refuses, so that everything that depends on them is judged
// too. Reads the structure of a valibot schema; knows no setting.
import * as v from 'valibot'

/** A valibot schema, as far as settings are made of it. */
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
 * The value with each part that does not fit as if it were absent: a default where there is one, and
 * for something required an empty value ("", 0, false, {} or []).
 */
export function salvage<Schema extends v.GenericSchema>(
  schema: Schema,
  value: unknown,
): v.InferOutput<Schema> {
  return soundPart(schema as unknown as Node, value) as v.InferOutput<Schema>
}

function soundPart(node: Node, value: unknown): unknown {
  const { success, output } = parsed(node, value)
  if (success) return output
  switch (node.type) {
    case 'optional': {
      const { wrapped = node } = node
      const isContainer = Array.isArray(value) ? wrapped.type === 'array' : isTable(value)
      if (isContainer && wrapped.type !== 'union') return soundPart(wrapped, value)
      return parsed(node, undefined).output
    }
    case 'strict_object':
      return mapped(node.entries ?? {}, (key, entry) => {
        return soundPart(
          entry,
          isTable(value) && Object.hasOwn(value, key) ? value[key] : undefined,
        )
      })
    case 'array':
      return Array.isArray(value) ? value.map((item) => soundPart(node.item ?? node, item)) : []
    case 'record': {
      const keys = Object.entries(isTable(value) ? value : {}).filter(
        ([key]) => node.key === undefined || parsed(node.key, key).success,
      )
      return mapped(Object.fromEntries(keys), (_, item) => soundPart(node.value ?? node, item))
    }
    case 'union':
      return soundPart(node.options?.at(-1) ?? node, value)
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

function mapped<T>(table: Readonly<Record<string, T>>, to: (key: string, value: T) => unknown) {
  return Object.fromEntries(Object.entries(table).map(([key, value]) => [key, to(key, value)]))
}

function isTable(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
