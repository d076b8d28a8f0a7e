// The soak itself: that its checker sees each broken invariant, and that a short run of it still
// works. `npm run soak` is the long one.
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'
import {
  type Asked,
  fault,
  faultsOfTotals,
  isStray,
  type MemorySample,
  type Totals,
} from '../../bench/soak-invariants.ts'
import { answerTo, promptOf, wordsOf } from '../../bench/soak-upstream.ts'
import type { Got } from '../../bench/visitor.ts'

const asked: Asked = {
  what: 'a test',
  answer: 'one two',
  words: 'one two',
  bareStream: false,
  resume: null,
}
const got = (text: string, type: string, more: Partial<Got> = {}): Got => ({
  how: 'whole',
  status: 200,
  headers: { 'content-type': type },
  text,
  ...more,
})
const json = (text: string, more: Partial<Got> = {}) =>
  got(JSON.stringify({ choices: [{ text }] }), 'application/json', more)
const chunk = (text: string) => `data: ${JSON.stringify({ id: 'a', choices: [{ text }] })}\n\n`
const failure = (code: string) => `data: ${JSON.stringify({ error: { code } })}\n\n`
const DONE = 'data: [DONE]\n\n'
const sse = (text: string, more: Partial<Got> = {}) => got(text, 'text/event-stream', more)
const text = (body: string, more: Partial<Got> = {}) => got(body, 'text/plain; charset=utf-8', more)
const problem = (status: number, code: string) =>
  got(JSON.stringify({ error: { code } }), 'application/json', { status })

test.each([
  ['JSON', json('one two')],
  ['an event stream', sse(`${chunk('one ')}:\n\n${chunk('two')}${DONE}`)],
  ['bare text', text('one two')],
  ['a refusal', problem(429, 'rate_limited')],
  ['an error in band', sse(chunk('one ') + failure('upstream_truncated'))],
  [
    'a stream that was left, in the middle of an event',
    sse(`${chunk('one ')}data: {"id`, { how: 'left' }),
  ],
  ['a request that was left before any answer', got('', '', { how: 'left', status: 0 })],
])('no fault: %s', (_, answer) => {
  expect(fault(asked, answer)).toBe(null)
})

test.each([
  ['hung', json('one two', { how: 'hung' }), /hung/],
  ['no answer', got('', '', { how: 'broken', status: 0 }), /the connection broke/],
  ['other words', json('one too'), /not what the upstream said/],
  ['an internal error', problem(500, 'internal'), /internal/],
  ['an unknown code', problem(400, 'oops'), /unknown code oops/],
  [
    'an error without an object',
    got('no', 'text/html', { status: 502 }),
    /without an error object/,
  ],
  ['JSON that broke off', json('one', { how: 'broken' }), /broke off/],
  ['a stream that misses its end', sse(chunk('one ') + DONE), /not what the upstream said/],
  ['a stream without [DONE]', sse(chunk('one ') + chunk('two')), /neither \[DONE\] nor an error/],
  ['a stream that broke off', sse(chunk('one '), { how: 'broken' }), /without an error event/],
  ['words after [DONE]', sse(chunk('one two') + DONE + chunk('!')), /follows \[DONE\]/],
  [
    'words after an error',
    sse(failure('upstream_truncated') + chunk('one')),
    /follows an error event/,
  ],
  ['an internal error in band', sse(failure('internal')), /in band/],
  ['a part of something else', sse(chunk('two'), { how: 'left' }), /no beginning/],
  ['half an event', sse(`${chunk('one ')}data: {"id\n\n`), /no event of ours/],
  ['bare text cut', text('one'), /not what the upstream said/],
  [
    'bare text that broke off though it was to be whole',
    text('one', { how: 'broken' }),
    /broke off/,
  ],
])('a fault: %s', (_, answer, said) => {
  expect(fault(asked, answer)).toMatch(said)
})

test('a stream of bare text may break off, but only as a beginning', () => {
  const bare = { ...asked, bareStream: true }
  expect(fault(bare, text('one', { how: 'broken' }))).toBe(null)
  expect(fault(bare, text('two', { how: 'broken' }))).toMatch(/no beginning/)
})

test('no answer may be whole where the upstream gave none', () => {
  expect(fault({ ...asked, answer: null }, json('one two'))).toMatch(/a whole answer where/)
})

test('a stream that goes on must go on at the right place, or begin anew under another id', () => {
  const resumed = (id: string): Asked => ({ ...asked, resume: { id, chars: 4 } })
  expect(fault(resumed('a'), sse(chunk('two') + DONE))).toBe(null)
  expect(fault(resumed('a'), sse(chunk('one two') + DONE))).toMatch(/not what/)
  expect(fault(resumed('b'), sse(chunk('one two') + DONE))).toBe(null)
  expect(fault(resumed('b'), sse(chunk('two') + DONE))).toMatch(/not what/)
})

test('the log may hold events, and what the runtime says of a stream that had to break off', () => {
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

test('no fault: a run that kept everything', () => {
  expect(faultsOfTotals(totals)).toEqual([])
})

test.each<[string, Partial<Totals>, RegExp]>([
  ['more spent than there was', { spent: 1001 }, /over the budget: 1001/],
  ['spent and reserved are more', { spent: 990, reserved: 20 }, /over the budget: 990 and 20/],
  [
    'served behind the ledger’s back',
    { served: 901 },
    /served 901 tokens, the ledger knows of 900/,
  ],
  ['a lease left', { reserved: 1 }, /a lease is left/],
  ['a prompt paid for twice', { answered: new Map([['a', 2]]) }, /1 prompts were paid for twice/],
  ['a stray line', { strays: ['Uncaught'] }, /in the log: Uncaught/],
  ['live heap grows', { memory: growing('liveMb', 2) }, /memory grows: liveMb by 8\.0/],
  ['resident memory grows', { memory: growing('residentMb', 20) }, /memory grows: residentMb/],
])('a fault of the whole: %s', (_, more, said) => {
  const found = faultsOfTotals({ ...totals, ...more })
  expect(found.length).toBeGreaterThan(0)
  expect(found[0]).toMatch(said)
})

test('a short run says nothing about memory, and midnight nothing about what was spent before', () => {
  const short = growing('liveMb', 9).map((sample) => ({ ...sample, atS: sample.atS / 10 }))
  expect(faultsOfTotals({ ...totals, memory: short, dayEnded: true, spent: 0 })).toEqual([])
})

test('what the upstream says is a function of the prompt; faults have no whole answer', () => {
  const prompt = promptOf('slow', 'x')
  expect(answerTo(prompt)).toBe(wordsOf(prompt))
  expect(answerTo(promptOf('slow', 'y'))).not.toBe(answerTo(prompt))
  expect(answerTo(promptOf('cut', 'x'))).toBe(null)
})

test('some seconds of it hold on the built Worker', { timeout: 90_000 }, async () => {
  const args = ['bench/soak.ts', '--seconds', '5', '--seed', '7']
  const { stdout } = await promisify(execFile)(process.execPath, args, { timeout: 80_000 })
  expect(stdout).toMatch(/^seed 7, 5 s\n/)
  expect(stdout).toMatch(/hit; detail=memory/)
  expect(stdout).toMatch(/upstream_truncated/)
  expect(stdout).toContain('every invariant held')
})
