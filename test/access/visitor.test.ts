// Identifies visitors without a token by their network and the day.

import { isIPv4, isIPv6 } from 'node:net'
import fc from 'fast-check'
import { afterEach, expect, test, vi } from 'vitest'
import { networkOf, Visitors } from '../../src/access/visitors.ts'

afterEach(() => {
  vi.restoreAllMocks()
})

const visitorsWith = (secret: () => Promise<string>) =>
  new Visitors({ secret, tokens: null, now: () => 0 })
const visitorsOf = (secret: string) => visitorsWith(async () => secret)

const DAY_MS = 86_400_000
const NOON_MS = 20_000 * DAY_MS + DAY_MS / 2

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
])('networkOf() maps %s to %s', (address, network) => {
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
])('networkOf() maps %j to the shared network', (address) => {
  expect(networkOf(address)).toBe('shared')
})

test('networkOf() recognises an IPv4 address in every IPv6 spelling', () => {
  for (const address of ['::ffff:cb00:7107', '0:0:0:0:0:ffff:203.0.113.7', '0::ffff:cb00:7107']) {
    expect(networkOf(address), address).toBe('203.0.113.7')
  }
})

test('networkOf() maps a whole /64 to one network and its neighbour to another', () => {
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

// node:net decides what an address is. A zone id has no meaning outside its host.
test('networkOf() maps anything that is not an address to the shared network', () => {
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

test('Visitors.idOf() changes each UTC day and with each secret', async () => {
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

test('Visitors.idOf() gives one id per network, and one for all requests without an address', async () => {
  const visitors = visitorsOf('secret')
  const id = (address: string | null) => visitors.idOf(address, NOON_MS)
  expect(await id('2001:db8:1:2::1')).toBe(await id('2001:db8:1:2:ffff::9'))
  expect(await id('::ffff:203.0.113.7')).toBe(await id('203.0.113.7'))
  expect(await id(null)).toBe(await id('garbage'))
  const others = ['2001:db8:1:2::1', '2001:db8:1:3::1', '203.0.113.7', '203.0.113.8', null]
  expect(new Set(await Promise.all(others.map(id))).size).toBe(5)
})

test('Visitors.idOf() does not contain the address', async () => {
  const id = await visitorsOf('secret').idOf('203.0.113.7', NOON_MS)
  const hex = Buffer.from([203, 0, 113, 7]).toString('hex')
  expect(id).not.toContain(hex)
})

// A request may run across midnight; its id must not be kept.
test("Visitors.idOf() does not keep yesterday's id after midnight", async () => {
  const visitors = visitorsOf('secret')
  const late = visitors.idOf('203.0.113.7', DAY_MS - 1)
  const early = visitors.idOf('203.0.113.8', DAY_MS)
  await Promise.all([late, early])
  expect(await visitors.idOf('203.0.113.7', DAY_MS)).toBe(
    await visitorsOf('secret').idOf('203.0.113.7', DAY_MS),
  )
})

test('Visitors.idOf() gives the right ids to concurrent requests', async () => {
  const visitors = visitorsOf('secret')
  const addresses = Array.from({ length: 50 }, (_, i) => `203.0.113.${i % 10}`)
  const ids = await Promise.all(addresses.map((address) => visitors.idOf(address, NOON_MS)))
  expect(new Set(ids).size).toBe(10)
  for (const [i, id] of ids.entries()) expect(id).toBe(ids[i % 10])
})

test('Visitors.idOf() caches up to a thousand networks', async () => {
  const sign = vi.spyOn(crypto.subtle, 'sign')
  const visitors = visitorsOf('secret')
  const address = (i: number) => `10.0.${i >> 8}.${i & 255}`
  await visitors.idOf(address(0), NOON_MS)
  await visitors.idOf(address(0), NOON_MS)
  expect(sign).toHaveBeenCalledTimes(1)
  for (let i = 1; i <= 1000; i++) await visitors.idOf(address(i), NOON_MS)
  expect(sign).toHaveBeenCalledTimes(1001)
  // If it had kept the first network next to 1,000 others, the cache would be unbounded.
  await visitors.idOf(address(0), NOON_MS)
  expect(sign).toHaveBeenCalledTimes(1002)
})

test('Visitors.idOf() reads the secret once a day, and again after a failure', async () => {
  const secret = vi
    .fn<() => Promise<string>>()
    .mockRejectedValueOnce(new Error('out of reach'))
    .mockResolvedValue('secret')
  const visitors = visitorsWith(secret)
  await expect(visitors.idOf('203.0.113.7', NOON_MS)).rejects.toThrow('out of reach')
  const id = await visitors.idOf('203.0.113.7', NOON_MS)
  await visitors.idOf('203.0.113.8', NOON_MS)
  expect(secret).toHaveBeenCalledTimes(2)
  expect(id).toBe(await visitorsOf('secret').idOf('203.0.113.7', NOON_MS))
  await visitors.idOf('203.0.113.7', NOON_MS + DAY_MS)
  expect(secret).toHaveBeenCalledTimes(3)
})
