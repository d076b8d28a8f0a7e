// The soak test itself: its checker detects each violated invariant, and a short run passes.
// `npm run soak` is the long one.
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'
import {
  type Expectation,
  fault,
  faultsOfTotals,
  isStray,
  type MemorySample,
  type Totals,
} from '../../bench/soak-invariants.ts'
import { answerTo, promptOf, wordsOf } from '../../bench/soak-upstream.ts'
import type { Result } from '../../bench/visitor.ts'

const expected: Expectation = {
  what: 'a test',
  answer: 'one two',
  words: 'one two',
  bareStream: false,
  resume: null,
}
const result = (text: string, type: string, more: Partial<Result> = {}): Result => ({
  how: 'whole',
  status: 200,
  headers: { 'content-type': type },
  text,
  error: null,
  ...more,
})
const json = (text: string, more: Partial<Result> = {}) =>
  result(JSON.stringify({ choices: [{ text }] }), 'application/json', more)
const chunk = (text: string) => `data: ${JSON.stringify({ id: 'a', choices: [{ text }] })}\n\n`
const failure = (code: string) => `data: ${JSON.stringify({ error: { code } })}\n\n`
const DONE = 'data: [DONE]\n\n'
const sse = (text: string, more: Partial<Result> = {}) => result(text, 'text/event-stream', more)
const text = (body: string, more: Partial<Result> = {}) =>
  result(body, 'text/plain; charset=utf-8', more)
const problem = (status: number, code: string) =>
  result(JSON.stringify({ error: { code } }), 'application/json', { status })

test.each([
  ['JSON', json('one two')],
  ['an event stream', sse(`${chunk('one ')}:\n\n${chunk('two')}${DONE}`)],
  ['plain text', text('one two')],
  ['an error response', problem(429, 'rate_limited')],
  ['an error event', sse(chunk('one ') + failure('upstream_truncated'))],
  ['a disconnect in the middle of an event', sse(`${chunk('one ')}data: {"id`, { how: 'left' })],
  ['a disconnect before the response', result('', '', { how: 'left', status: 0 })],
])('fault() accepts %s', (_, answer) => {
  expect(fault(expected, answer)).toBe(null)
})

test.each([
  ['a timeout', json('one two', { how: 'hung' }), /hung/],
  ['no response', result('', '', { how: 'broken', status: 0 }), /the connection broke/],
  ['a different text', json('one too'), /not the answer of the upstream/],
  ['an internal error', problem(500, 'internal'), /internal/],
  ['an unknown code', problem(400, 'oops'), /unknown code oops/],
  [
    'an error without an object',
    result('no', 'text/html', { status: 502 }),
    /without an error object/,
  ],
  ['incomplete JSON', json('one', { how: 'broken' }), /broke off/],
  ['a truncated stream', sse(chunk('one ') + DONE), /not the answer of the upstream/],
  ['a stream without [DONE]', sse(chunk('one ') + chunk('two')), /neither \[DONE\] nor an error/],
  ['a stream that broke off', sse(chunk('one '), { how: 'broken' }), /without an error event/],
  ['text after [DONE]', sse(chunk('one two') + DONE + chunk('!')), /follows \[DONE\]/],
  [
    'text after an error event',
    sse(failure('upstream_truncated') + chunk('one')),
    /follows an error event/,
  ],
  ['an internal error event', sse(failure('internal')), /internal error in the stream/],
  ['a part of a different text', sse(chunk('two'), { how: 'left' }), /not a prefix/],
  ['half an event', sse(`${chunk('one ')}data: {"id\n\n`), /invalid event/],
  ['truncated plain text', text('one'), /not the answer of the upstream/],
  ['plain text without streaming that broke off', text('one', { how: 'broken' }), /broke off/],
])('fault() rejects %s', (_, answer, message) => {
  expect(fault(expected, answer)).toMatch(message)
})

test('fault() accepts a plain-text stream that breaks off only after a prefix of the answer', () => {
  const bare = { ...expected, bareStream: true }
  expect(fault(bare, text('one', { how: 'broken' }))).toBe(null)
  expect(fault(bare, text('two', { how: 'broken' }))).toMatch(/not a prefix/)
})

test('fault() rejects a complete answer if the upstream did not complete one', () => {
  expect(fault({ ...expected, answer: null }, json('one two'))).toMatch(
    /a complete answer although/,
  )
})

test('fault() requires a resumed stream to continue at its point, or to start over with a new id', () => {
  const resumed = (id: string): Expectation => ({ ...expected, resume: { id, chars: 4 } })
  expect(fault(resumed('a'), sse(chunk('two') + DONE))).toBe(null)
  expect(fault(resumed('a'), sse(chunk('one two') + DONE))).toMatch(/not the answer/)
  expect(fault(resumed('b'), sse(chunk('one two') + DONE))).toBe(null)
  expect(fault(resumed('b'), sse(chunk('two') + DONE))).toMatch(/not the answer/)
})

test('isStray() accepts log events and the runtime’s message about a stream that broke off', () => {
  expect(isStray('{"event":"request","status":200}')).toBe(false)
  expect(isStray('Uncaught exception: x: failed: remote.jsg.Error: the answer broke off')).toBe(
    false,
  )
  expect(isStray('{"event":"internal"}')).toBe(true)
  expect(isStray('Uncaught (in promise) TypeError: x')).toBe(true)
  expect(isStray('{"message":"no event"}')).toBe(true)
})

const flat = Array.from(
  { length: 16 },
  (_, i): MemorySample => ({
    atS: (i + 1) * 10,
    requests: (i + 1) * 1000,
    residentMb: 300 + 5 * Math.sin(i),
    liveMb: 10,
  }),
)
const totals: Totals = {
  budget: 1000,
  spent: 900,
  reserved: 0,
  served: 800,
  dayEnded: false,
  answered: new Map([['a', 1]]),
  strays: [],
  memory: flat,
}
const growing = (of: 'residentMb' | 'liveMb', mb: number) =>
  flat.map((sample, i) => ({ ...sample, [of]: sample[of] + mb * i }))

test('faultsOfTotals() accepts a run in which every invariant held', () => {
  expect(faultsOfTotals(totals)).toEqual([])
})

test.each<[string, Partial<Totals>, RegExp]>([
  ['more spent than the budget', { spent: 1001 }, /over the budget: 1001/],
  [
    'spent and reserved above the budget',
    { spent: 990, reserved: 20 },
    /over the budget: 990 and 20/,
  ],
  [
    'tokens that the ledger does not have',
    { served: 901 },
    /served 901 tokens, but the ledger has 900/,
  ],
  ['an unsettled lease', { reserved: 1 }, /a lease was not settled/],
  ['a prompt paid for twice', { answered: new Map([['a', 2]]) }, /1 prompts were paid for twice/],
  ['an unexpected log line', { strays: ['Uncaught'] }, /in the log: Uncaught/],
  ['a growing live heap', { memory: growing('liveMb', 2) }, /memory grows: liveMb by 8\.0/],
  ['growing resident memory', { memory: growing('residentMb', 20) }, /memory grows: residentMb/],
])('faultsOfTotals() rejects %s', (_, more, message) => {
  const found = faultsOfTotals({ ...totals, ...more })
  expect(found.length).toBeGreaterThan(0)
  expect(found[0]).toMatch(message)
})

test.each([
  // Three hours as measured, with requests spread evenly.
  [86_400, [724, 702, 732, 731, 748, 760, 775, 785, 809, 822, 835, 829, 878, 907, 916]],
  [73_300, [640, 644, 663, 712, 766, 733, 727, 733, 720, 763, 781, 795, 837, 831, 858]],
  [76_000, [698, 694, 718, 723, 742, 755, 741, 763, 766, 774, 771, 823, 836, 864, 863]],
])(
  'faultsOfTotals() accepts the resident memory of an hour, but not 400 bytes more for each request',
  (requests, resident) => {
    const hour = (ofOurs: number): MemorySample[] =>
      resident.map((residentMb, i) => ({
        atS: (i + 1) * 224,
        requests: (i + 1) * requests,
        residentMb: residentMb + (i * requests * ofOurs) / 1_048_576,
        liveMb: 25,
      }))
    expect(faultsOfTotals({ ...totals, memory: hour(0) })).toEqual([])
    expect(faultsOfTotals({ ...totals, memory: hour(400) })).toHaveLength(1)
  },
)

test('faultsOfTotals() ignores memory in a short run, and tokens spent before midnight', () => {
  const short = growing('liveMb', 9).map((sample) => ({ ...sample, atS: sample.atS / 10 }))
  expect(faultsOfTotals({ ...totals, memory: short, dayEnded: true, spent: 0 })).toEqual([])
})

test('the answer of the upstream is a function of the prompt, and null for faults', () => {
  const prompt = promptOf('slow', 'x')
  expect(answerTo(prompt)).toBe(wordsOf(prompt))
  expect(answerTo(promptOf('slow', 'y'))).not.toBe(answerTo(prompt))
  expect(answerTo(promptOf('cut', 'x'))).toBe(null)
})

test('a run of five seconds passes on the built Worker', { timeout: 90_000 }, async () => {
  const args = ['bench/soak.ts', '--seconds', '5', '--seed', '7']
  const { stdout } = await promisify(execFile)(process.execPath, args, { timeout: 80_000 })
  expect(stdout).toMatch(/^seed 7, 5 s\n/)
  // How many there are, and so which of them, depends on the speed of the machine.
  expect(stdout).toMatch(/ample budget: [1-9]\d* requests, [1-9]\d* upstream calls/)
  expect(stdout).toMatch(/small budget: [1-9]\d* requests/)
  expect(stdout).toContain('every invariant held')
})
