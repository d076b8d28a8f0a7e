// The valid parts of an invalid value.
import * as v from 'valibot'
import { expect, test } from 'vitest'
import { salvage } from '../../src/config/salvage.ts'

const item = v.strictObject({
  name: v.pipe(v.string(), v.minLength(1)),
  size: v.number(),
  retries: v.optional(v.number(), 1),
  tags: v.optional(v.array(v.string())),
  wanted: v.optional(v.boolean()),
  kind: v.optional(v.picklist(['one', 'two'])),
})
const schema = v.strictObject({
  items: v.pipe(v.array(item), v.minLength(1)),
  limits: v.optional(v.strictObject({ n: v.optional(v.number(), 4) }), {}),
  named: v.optional(
    v.record(
      v.pipe(v.string(), v.regex(/^[a-z]+$/)),
      v.union([v.strictObject({ page: v.string() }), v.strictObject({ max: v.number() })]),
    ),
    {},
  ),
})

test.each([
  [{ items: [{ name: 'a', size: 1 }] }, [{ name: 'a', size: 1, retries: 1 }]],
  [{ items: [{ name: '', size: 1, retries: 'x' }] }, [{ name: '', size: 1, retries: 1 }]],
  [{ items: [{ name: 5, more: 1 }] }, [{ name: '', size: 0, retries: 1 }]],
  [
    { items: ['x', { name: 'b', size: 2, tags: ['t', 5], wanted: 'x' }] },
    [
      { name: '', size: 0, retries: 1 },
      { name: 'b', size: 2, retries: 1, tags: ['t', ''] },
    ],
  ],
  [
    { items: [{ name: 'a', size: 1, retries: {}, tags: {}, wanted: {}, kind: {} }] },
    [{ name: 'a', size: 1, retries: 1 }],
  ],
  [{ items: 'x' }, []],
  [{ items: [] }, []],
  [null, []],
])('salvage() of %j has the items %j', (value, items) => {
  const { items: found } = salvage(schema, value)
  // Readers treat an absent field and an undefined one alike.
  expect(JSON.parse(JSON.stringify(found))).toEqual(items)
})

test('salvage() replaces an invalid table by its defaults, and keeps the valid entries of a record', () => {
  const { limits, named } = salvage(schema, {
    limits: 'none',
    named: { a: { page: 'x' }, b: { max: 'x' }, 'not a name': { max: 1 } },
  })
  expect(limits).toEqual({ n: 4 })
  expect(named).toEqual({ a: { page: 'x' }, b: { max: 0 } })
})

test('salvage() of a valid value is the schema’s output', () => {
  const value = { items: [{ name: 'a', size: 1 }], limits: { n: 2 } }
  expect(salvage(schema, value)).toEqual(v.parse(schema, value))
})

test('salvage() reads nothing from the prototype', () => {
  const value: unknown = JSON.parse('{"__proto__":{"items":[{"name":"a","size":1}]}}')
  expect(salvage(schema, value).items).toEqual([])
})
