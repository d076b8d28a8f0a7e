// Turns an upstream's settings into a connection: authentication headers and transport.
import { expect, test } from 'vitest'
import { isLoopback } from '../../src/http/cors.ts'
import { features, wires } from '../../src/upstream/adapter.ts'
import { type ConnectOptions, connect } from '../../src/upstream/connection.ts'
import { presets, wireLimits } from '../../src/upstream/presets.ts'

const options: ConnectOptions = {
  name: 'main',
  wire: 'completions',
  baseUrl: 'https://upstream.test/v1',
  auth: 'bearer',
  key: 'secret',
  unsupported: new Set(),
  stream: 'always',
  firstByteMs: 1,
  idleMs: 2,
  deadlineMs: 3,
  retries: 4,
  maxOutputBytes: 5,
  maxTokensField: 'max_tokens',
  streamUsage: true,
  path: null,
}

const http = async () => new Response('http')
const demo = async () => new Response('demo')

test.each([
  ['bearer', { authorization: 'Bearer secret' }],
  ['api-key', { 'api-key': 'secret' }],
  ['x-api-key', { 'x-api-key': 'secret' }],
  ['none', {}],
] as const)('connect() with auth %s sends %j', (auth, headers) => {
  expect(connect({ ...options, auth }, { http, demo }).headers).toEqual(headers)
})

test('connect() sends no authentication without a key', () => {
  expect(connect({ ...options, key: null }, { http, demo }).headers).toEqual({})
})

test('connect() uses the demo transport only for the demo wire', () => {
  expect(connect({ ...options, wire: 'demo' }, { http, demo }).send).toBe(demo)
  for (const wire of wires) {
    if (wire === 'demo' || wire === 'workers-ai') continue
    expect(connect({ ...options, wire }, { http, demo }).send).toBe(http)
  }
})

test('connect() keeps the configured limits', () => {
  const connection = connect(options, { http, demo })
  expect(connection).toMatchObject({ name: 'main', deadlineMs: 3, retries: 4, stream: 'always' })
  expect(connection).toMatchObject({ firstByteMs: 1, idleMs: 2, maxOutputBytes: 5 })
  expect(connect({ ...options, stream: 'visitor' }, { http, demo }).stream).toBe('visitor')
})

test('connect() creates a breaker for each model of each upstream', () => {
  const one = connect(options, { http, demo })
  const two = connect(options, { http, demo })
  for (let i = 0; i < 10; i++) one.breakers.of('m').admit(0)?.failed(0)
  expect(one.breakers.of('m').admit(0)).toBeNull()
  expect(one.breakers.of('n').admit(0)).not.toBeNull()
  expect(two.breakers.of('m').admit(0)).not.toBeNull()
})

test('connect() has an adapter for every wire', () => {
  for (const wire of wires) {
    expect(connect({ ...options, wire }, { http, demo }).upstream.toWire).toBeTypeOf('function')
  }
})

test('wireLimits names only known features and known wires', () => {
  expect(Object.keys(wireLimits).sort()).toEqual([...wires].sort())
  for (const wire of wires) expect(features).toEqual(expect.arrayContaining([...wireLimits[wire]]))
})

test('presets have base URLs without a trailing slash, and plain HTTP only for loopback', () => {
  for (const [name, preset] of Object.entries(presets)) {
    expect(wires, name).toContain(preset.wire)
    if (preset.baseUrl === null) continue
    const { protocol, hostname, search, hash } = new URL(preset.baseUrl)
    expect(protocol, name).toBe(isLoopback(hostname) ? 'http:' : 'https:')
    expect([search, hash, preset.baseUrl.endsWith('/')], name).toEqual(['', '', false])
  }
})
