// Who a visitor is without a token: one network, one day, and nothing else.

import { isIPv4, isIPv6 } from 'node:net'
import fc from 'fast-check'
import { afterEach, expect, test, vi } from 'vitest'
import { networkOf, Visitors } from '../../src/access/visitor.ts'

afterEach(() => {
  vi.restoreAllMocks()
})

const visitorsOf = (secret: string) => new Visitors(async () => secret)

const DAY_MS = 86_400_000
const NOON_MS = 20_000 * DAY_MS + DAY_MS / 2

// PLATFORM B10.
test.each([
  ['203.0.113.7', '203.0.113.7'],
  ['0.0.0.0', '0.0.0.0'],
  ['255.255.255.255', '255.255.255.255'],
  ['::ffff:203.0.113.7', '203.0.113.7'],
  ['::FFFF:203.0.113.7', '203.0.113.7'],
  ['2001:db8:1:2:3:4:5:6', '2001:db8:1:2::/64'],
  ['2001:0DB8:0001:0002:ffff:ffff:ffff:ffff', '2001:db8:1:2::/64'],
  ['2001:db8:1:2::', '2001:db8:1:2::/64'],
  ['2001:db8:1:2::9', '2001:db8:1:2::/64'],
  ['2001:db8::1', '2001:db8:0:0::/64'],
  ['2001:db8:0:0:1::', '2001:db8:0:0::/64'],
  ['1::', '1:0:0:0::/64'],
])('networkOf() puts %s into %s', (address, network) => {
  expect(networkOf(address)).toBe(network)
})

test.each([
  null,
  '',
  ' ',
  'garbage',
  'unknown',
  '256.1.1.1',
  '1.2.3',
  '1.2.3.4.5',
  '1.2.3.4:80',
  ' 1.2.3.4',
  '1.2.3.4, 5.6.7.8',
  '::ffff:999.1.1.1',
  'fe80::1%eth0',
  'fe80::1%25eth0',
  '1:2:3',
  '1::2::3',
  '12345::',
  '[::1]',
  'a:b',
  'host:80',
  '2001:db8::g',
  '\u0000',
  `${'1:'.repeat(10_000)}:`,
])('networkOf() puts %j where everybody shares', (address) => {
  expect(networkOf(address)).toBe('shared')
})

test('networkOf() knows an IPv4 address in every IPv6 spelling', () => {
  for (const address of ['::ffff:cb00:7107', '0:0:0:0:0:ffff:203.0.113.7', '0::ffff:cb00:7107']) {
    expect(networkOf(address), address).toBe('203.0.113.7')
  }
})

test('networkOf() puts a whole /64 into one network and its neighbour into another', () => {
  const group = fc.integer({ min: 0, max: 0xffff }).map((n) => n.toString(16))
  const groups = (length: number) => fc.array(group, { minLength: length, maxLength: length })
  fc.assert(
    fc.property(groups(4), groups(4), groups(4), groups(4), (net, other, a, b) => {
      fc.pre(net.some((part) => part !== '0') && other.some((part) => part !== '0'))
      const network = networkOf([...net, ...a].join(':'))
      expect(network).toBe(networkOf([...net, ...b].join(':')))
      expect(network === networkOf([...other, ...a].join(':'))).toBe(
        net.join(':') === other.join(':'),
      )
    }),
  )
})

// node:net is the judge of what an address is; a zone id has no meaning outside its host.
test('networkOf() shares whatever is no address', () => {
  const piece = fc.constantFrom(':', '::', '1', 'ff', '.', '0', ']', '[', '/', '@', '%', '?', '\n')
  const text = fc.oneof(
    fc.array(piece, { maxLength: 10 }).map((pieces) => pieces.join('')),
    fc.string(),
    fc.ipV4(),
    fc.ipV6(),
  )
  fc.assert(
    fc.property(text, (address) => {
      const known = (isIPv4(address) || isIPv6(address)) && !address.includes('%')
      expect(networkOf(address) !== 'shared').toBe(known)
    }),
    { numRuns: 2000, examples: [['::1]:80/'], ['::1]/?['], ['::\n1'], ['01.2.3.4']] },
  )
})

test('Visitors.idOf() is 16 hex digits, the same all day', async () => {
  const visitors = visitorsOf('secret')
  const id = await visitors.idOf('203.0.113.7', NOON_MS)
  expect(id).toMatch(/^h:[0-9a-f]{16}$/)
  const day = Math.floor(NOON_MS / DAY_MS) * DAY_MS
  for (const nowMs of [day, NOON_MS, day + DAY_MS - 1]) {
    expect(await visitors.idOf('203.0.113.7', nowMs)).toBe(id)
    expect(await visitorsOf('secret').idOf('203.0.113.7', nowMs)).toBe(id)
  }
})

test('Visitors.idOf() is new each UTC day, and with each secret', async () => {
  const visitors = visitorsOf('secret')
  const day = Math.floor(NOON_MS / DAY_MS) * DAY_MS
  const ids = [
    await visitors.idOf('203.0.113.7', day + DAY_MS - 1),
    await visitors.idOf('203.0.113.7', day + DAY_MS),
    await visitors.idOf('203.0.113.7', day + 2 * DAY_MS),
    await visitorsOf('other').idOf('203.0.113.7', day),
  ]
  expect(new Set(ids).size).toBe(4)
})

test('Visitors.idOf() has one visitor per network and one for all without an address', async () => {
  const visitors = visitorsOf('secret')
  const id = (address: string | null) => visitors.idOf(address, NOON_MS)
  expect(await id('2001:db8:1:2::1')).toBe(await id('2001:db8:1:2:ffff::9'))
  expect(await id('::ffff:203.0.113.7')).toBe(await id('203.0.113.7'))
  expect(await id(null)).toBe(await id('garbage'))
  const others = ['2001:db8:1:2::1', '2001:db8:1:3::1', '203.0.113.7', '203.0.113.8', null]
  expect(new Set(await Promise.all(others.map(id))).size).toBe(5)
})

test('Visitors.idOf() does not hold the address', async () => {
  const id = await visitorsOf('secret').idOf('203.0.113.7', NOON_MS)
  const hex = Buffer.from([203, 0, 113, 7]).toString('hex')
  expect(id).not.toContain(hex)
})

// A request that began before midnight ends after it: its name must not live on.
test("Visitors.idOf() does not carry yesterday's name over midnight", async () => {
  const visitors = visitorsOf('secret')
  const late = visitors.idOf('203.0.113.7', DAY_MS - 1)
  const early = visitors.idOf('203.0.113.8', DAY_MS)
  await Promise.all([late, early])
  expect(await visitors.idOf('203.0.113.7', DAY_MS)).toBe(
    await visitorsOf('secret').idOf('203.0.113.7', DAY_MS),
  )
})

test('Visitors.idOf() names visitors rightly when all come at once', async () => {
  const visitors = visitorsOf('secret')
  const addresses = Array.from({ length: 50 }, (_, i) => `203.0.113.${i % 10}`)
  const ids = await Promise.all(addresses.map((address) => visitors.idOf(address, NOON_MS)))
  expect(new Set(ids).size).toBe(10)
  for (const [i, id] of ids.entries()) expect(id).toBe(ids[i % 10])
})

test('Visitors.idOf() remembers a thousand networks and no more', async () => {
  const sign = vi.spyOn(crypto.subtle, 'sign')
  const visitors = visitorsOf('secret')
  const address = (i: number) => `10.0.${i >> 8}.${i & 255}`
  await visitors.idOf(address(0), NOON_MS)
  await visitors.idOf(address(0), NOON_MS)
  expect(sign).toHaveBeenCalledTimes(1)
  for (let i = 1; i <= 1000; i++) await visitors.idOf(address(i), NOON_MS)
  expect(sign).toHaveBeenCalledTimes(1001)
  // Had it room for the 1001st beside the first, it would have room for any number.
  await visitors.idOf(address(0), NOON_MS)
  expect(sign).toHaveBeenCalledTimes(1002)
})

test('Visitors.idOf() asks for the secret once a day, and again after it was out of reach', async () => {
  const secret = vi
    .fn<() => Promise<string>>()
    .mockRejectedValueOnce(new Error('out of reach'))
    .mockResolvedValue('secret')
  const visitors = new Visitors(secret)
  await expect(visitors.idOf('203.0.113.7', NOON_MS)).rejects.toThrow('out of reach')
  const id = await visitors.idOf('203.0.113.7', NOON_MS)
  await visitors.idOf('203.0.113.8', NOON_MS)
  expect(secret).toHaveBeenCalledTimes(2)
  expect(id).toBe(await visitorsOf('secret').idOf('203.0.113.7', NOON_MS))
  await visitors.idOf('203.0.113.7', NOON_MS + DAY_MS)
  expect(secret).toHaveBeenCalledTimes(3)
})
