// Conversion of the validating schemas to JSON Schema.
import { toJsonSchema } from '@valibot/to-json-schema'
import type * as v from 'valibot'
import { neutralValues } from '../../src/request/foreign.ts'

export type Json =
  | string
  | number
  | boolean
  | null
  | readonly Json[]
  | { readonly [key: string]: Json }
export type Table = { readonly [key: string]: Json }

/** A valibot schema as JSON Schema 2020-12, the dialect of OpenAPI 3.1. */
export function jsonSchema(schema: v.GenericSchema): Json {
  const { $schema: _, ...rest } = toJsonSchema(schema, {
    target: 'draft-2020-12',
    typeMode: 'output',
    // Checks by functions, such as for well-formed Unicode, cannot be expressed and are left out.
    errorMode: 'ignore',
    overrideSchema: ({ valibotSchema, jsonSchema }) =>
      valibotSchema.type === 'custom' ? { type: 'object' } : jsonSchema,
  })
  return bounded(rest as Table)
}

/** Removes bounds at the largest safe integer, which are noise to readers. */
function bounded(value: Json): Json {
  if (Array.isArray(value)) return value.map(bounded)
  if (typeof value !== 'object' || value === null) return value
  const entries = Object.entries(value)
    .filter(([, bound]) => Math.abs(Number(bound)) !== Number.MAX_SAFE_INTEGER)
    .map(([key, inner]) => [key, bounded(inner)])
  return Object.fromEntries(entries) as Table
}

/** The schema of a request body: `null` is the same as absent, and other fields are refused. */
export function bodySchema(schema: v.GenericSchema): Table {
  return withForeign(asRead(jsonSchema(schema) as Table))
}

/** Adds the fields of other servers that are accepted at their neutral values. */
function withForeign({ properties, ...rest }: Table): Table {
  const foreign = [...neutralValues]
    .filter(([name]) => !Object.hasOwn(properties as Table, name))
    .map(([name, values]) => [name, { enum: [...values, null] }])
  return { ...rest, properties: { ...(properties as Table), ...Object.fromEntries(foreign) } }
}

/** As schema.ts parses it: no unknown fields, and `null` is the same as absent. */
function asRead({ properties, required, ...rest }: Table): Table {
  const fields = Object.entries(properties as Record<string, Table>).map(([name, field]) => {
    const { type, anyOf } = field
    const whole = { ...field, ...('properties' in field ? { additionalProperties: false } : {}) }
    if ((required as readonly string[]).includes(name)) return [name, whole]
    if (type !== undefined) return [name, { ...whole, type: [type, 'null'] }]
    return [name, { ...whole, anyOf: [...(anyOf as readonly Json[]), { type: 'null' }] }]
  })
  return {
    ...rest,
    properties: Object.fromEntries(fields) as Table,
    ...(required === undefined ? {} : { required }),
    additionalProperties: false,
  }
}
