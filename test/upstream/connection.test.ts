// Turns an upstream's settings into a connection: authentication headers and transport.
import { expect, test } from 'vitest'
import { isLoopback } from '../../src/http/cors.ts'
import { features, wires } from '../../src/upstream/adapter.ts'
import { type ConnectOptions, connect } from '../../src/upstream/connection.ts'
import { presets, wireLimits } from '../../src/upstream/presets.ts'
import { connectionTo } from '../support/upstreams.ts'

const http = async () => new Response('http')
const demo = async () => new Response('demo')
const ai = async () => new Response('ai')

/** Connects with the settings of an ordinary connection. */
const connected = (settings: Partial<ConnectOptions> = {}) => {
  const { name, baseUrl, ...given } = connectionTo('main', http)
  const options = { wire: 'completions', auth: 'bearer', key: 'secret', name, baseUrl } as const
  return connect({ ...given, ...options, ...settings }, { http, demo, ai })
}

test.each([
  ['bearer', 'secret', { authorization: 'Bearer secret' }],
  ['api-key', 'secret', { 'api-key': 'secret' }],
  ['x-api-key', 'secret', { 'x-api-key': 'secret' }],
  ['none', 'secret', {}],
  ['bearer', null, {}],
] as const)('connect() with auth %s and the key %s sends %j', (auth, key, headers) => {
  expect(connected({ auth, key }).headers).toEqual(headers)
})

test.each(wires)('connect() has an adapter and the transport of the wire %s', (wire) => {
  const { send, upstream } = connected({ wire })
  expect(send).toBe(wire === 'demo' ? demo : wire === 'workers-ai' ? ai : http)
  expect(upstream.toWire).toBeTypeOf('function')
})

test('connect() keeps the configured limits', () => {
  const limits = { deadlineMs: 3, retries: 4, firstByteMs: 1, idleMs: 2, maxOutputBytes: 5 }
  expect(connected({ ...limits, stream: 'visitor' })).toMatchObject({
    ...limits,
    stream: 'visitor',
  })
})

test('connect() creates a breaker for each model of each upstream', () => {
  const one = connected()
  const two = connected()
  for (let i = 0; i < 10; i++) one.breakers.of('m').admit(0)?.failed(0)
  expect(one.breakers.of('m').admit(0)).toBeNull()
  expect(one.breakers.of('n').admit(0)).not.toBeNull()
  expect(two.breakers.of('m').admit(0)).not.toBeNull()
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
