// Runs every folder of test/fixtures/upstream/<wire>/<case>/ through the real generate(): whole,
// split in two at every byte that a reader could mistake, and byte by byte. The answer must be the
// same each time. Upstreams that pause, hang or break off do so in fake time.

import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import * as v from 'valibot'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { completionSchema, finishReasons } from '../../src/completion/completion.ts'
import { type Delta, Fold } from '../../src/completion/delta.ts'
import { KEEP_ALIVE } from '../../src/completion/encode.ts'
import { type Problem, problemOf } from '../../src/errors.ts'
import { Flight } from '../../src/flight/flight.ts'
import { generate, newOutcome } from '../../src/flight/generate.ts'
import { Encodings, StreamReader } from '../../src/flight/reader.ts'
import type { EffectiveRequest } from '../../src/request/effective.ts'
import { type Feature, type Wire, wires } from '../../src/upstream/adapter.ts'
import { wireLimits } from '../../src/upstream/presets.ts'
import { connectionTo, effectiveRequest, routeContext, workOf } from '../support/upstreams.ts'

const oneChoice: readonly Feature[] = ['n']

const outcomeSchema = v.union([
  v.strictObject({
    completion: v.looseObject({}),
    estimated: v.boolean(),
    stored: v.boolean(),
    /** What the log reports about an answer that is served but not stored. */
    doubt: v.optional(v.string()),
    /** How long the answer took, in fake time. */
    ms: v.optional(v.number(), 0),
  }),
  v.strictObject({
    error: v.strictObject({ code: v.string(), retryAfterSeconds: v.optional(v.number()) }),
    /** All text delivered before the failure; "" while a real status is still possible. */
    streamed: v.optional(v.string()),
  }),
])

const caseSchema = v.strictObject({
  note: v.string(),
  status: v.number(),
  headers: v.record(v.string(), v.string()),
  request: v.optional(v.record(v.string(), v.unknown()), {}),
  /** Silence before the first occurrence of a text in the body. */
  pauses: v.optional(v.array(v.strictObject({ before: v.string(), ms: v.number() })), []),
  /** What follows the body: its end, a reset, silence, or endless comments. */
  after: v.optional(v.picklist(['end', 'reset', 'open', 'heartbeats']), 'end'),
  expected: outcomeSchema,
})

interface Case extends v.InferOutput<typeof caseSchema> {
  readonly wire: Wire
  readonly body: Uint8Array
}

const root = join(import.meta.dirname, '..', 'fixtures', 'upstream')
const foldersIn = (folder: string) =>
  readdirSync(folder, { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .map(({ name }) => name)
    .sort()
const folders = foldersIn(root) as Wire[]

function caseIn(wire: Wire, name: string): [string, Case] {
  const read = (file: string) => readFileSync(join(root, wire, name, file))
  const given = v.parse(caseSchema, JSON.parse(read('case.json').toString('utf8')))
  return [`${wire}/${name}`, { ...given, wire, body: new Uint8Array(read('body.txt')) }]
}

/** Statuses with a short body, a row each. */
const statusesSchema = v.array(
  v.strictObject({ name: v.string(), body: v.string(), ...caseSchema.entries }),
)

function statusesOf(wire: Wire): [string, Case][] {
  const path = join(root, wire, 'statuses.json')
  const rows = existsSync(path) ? JSON.parse(readFileSync(path, 'utf8')) : []
  return v.parse(statusesSchema, rows).map(({ name, body, ...given }) => {
    return [`${wire}/${name}`, { ...given, wire, body: new TextEncoder().encode(body) }]
  })
}

const cases = new Map(
  folders.flatMap((wire) => [
    ...foldersIn(join(root, wire)).map((name) => caseIn(wire, name)),
    ...statusesOf(wire),
  ]),
)
const names = [...cases.keys()]

function caseNamed(name: string): Case {
  const found = cases.get(name)
  if (found === undefined) throw new Error(`no case ${name}`)
  return found
}

const ID = `cmpl-${'a'.repeat(24)}`
/** Tuesday, 14 November 2023, 22:13:20 GMT. */
const NOW_S = 1_700_000_000
const KEY = 'sk-ours-canary'
const bodiless = new Set([204, 205, 304])

function requestOf({ request }: Case): EffectiveRequest {
  const route = [{ upstream: 'tested', upstream_model: 'asked-model' }]
  const prompts = ['Say this is a test']
  return effectiveRequest({ model: 'alias', prompts, route, max_tokens: 64, ...request })
}

const pass = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms))
const HEARTBEAT_MS = 300
const heartbeat = new TextEncoder().encode(': ping\n\n')

/** A piece of the response: bytes, or milliseconds of silence. */
type Step = Uint8Array | number

/** The chunks, split at each pause. */
function* stepsOf(chunks: Iterable<Uint8Array>, { body, pauses }: Case): Generator<Step> {
  const whole = Buffer.from(body)
  const stops = pauses.map(({ before, ms }) => ({ at: whole.indexOf(before), ms }))
  let from = 0
  for (const chunk of chunks) {
    let rest = chunk
    for (const { at, ms } of stops) {
      if (at < from || at >= from + rest.length) continue
      yield rest.subarray(0, at - from)
      yield ms
      rest = rest.subarray(at - from)
      from = at
    }
    yield rest
    from += rest.length
  }
}

/** Delivers one chunk per pull, then does what comes after the body. */
function bodyOf(chunks: Iterable<Uint8Array>, tested: Case): ReadableStream<Uint8Array> {
  const left = stepsOf(chunks, tested)
  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        for (;;) {
          const { value, done } = left.next()
          if (done === true) break
          if (typeof value === 'number') await pass(value)
          else if (value.length > 0) return controller.enqueue(value)
        }
        if (tested.after === 'end') controller.close()
        else if (tested.after === 'reset') controller.error(new Error('Network connection lost.'))
        else if (tested.after === 'open') await new Promise<never>(() => {})
        else {
          await pass(HEARTBEAT_MS)
          controller.enqueue(heartbeat)
        }
      },
      cancel() {
        left.return(undefined)
      },
    },
    { highWaterMark: 0 },
  )
}

function start(
  tested: Case,
  chunks: Iterable<Uint8Array>,
  push: (deltas: readonly Delta[]) => void,
) {
  const leases: { accepted: number; settlements: number }[] = []
  const doubts: string[] = []
  const send = async (request: Request) => {
    expect(request.headers.get('authorization')).toBe(`Bearer ${KEY}`)
    expect(request.redirect).toBe('manual')
    const body = bodiless.has(tested.status) ? null : bodyOf(chunks, tested)
    return new Response(body, { status: tested.status, headers: tested.headers })
  }
  const connection = connectionTo('tested', send, {
    wire: tested.wire,
    streamUsage: tested.wire === 'chat' || tested.wire === 'completions',
    baseUrl: 'https://upstream.test/v1',
    auth: 'bearer',
    key: KEY,
    firstByteMs: 60_000,
    idleMs: 60_000,
    // As a chat server without a preset: one choice in one call.
    unsupported: new Set([
      ...wireLimits[tested.wire],
      ...(tested.wire === 'chat' ? oneChoice : []),
    ]),
  })
  const route = routeContext([connection], {
    random: () => 0,
    report: (event) => {
      if (event.event === 'answer_not_stored') doubts.push(event.reason)
    },
    reserve: async () => {
      const lease = { accepted: 0, settlements: 0 }
      leases.push(lease)
      return {
        accepted: () => {
          lease.accepted += 1
        },
        settle: () => {
          lease.settlements += 1
        },
      }
    },
  })
  const outcome = newOutcome()
  const work = workOf({ request: requestOf(tested), requestedAt: 0 })
  const context = { route, newId: () => ID, recheckKv: null, store: () => true, storeCopy() {} }
  return { answered: generate(work, context, outcome, push), outcome, leases, doubts }
}

/** The whole answer, or the failure and all text before it. */
async function ask(tested: Case, chunks: readonly Uint8Array[]) {
  vi.setSystemTime(NOW_S * 1000)
  const deltas: Delta[] = []
  const push = (more: readonly Delta[]) => void deltas.push(...more)
  const { answered, outcome, leases, doubts } = start(tested, chunks, push)
  await inFakeTime(answered, tested)
  const problem = await answered.then(
    () => null,
    (error: unknown) => problemOf(error),
  )
  const fold = new Fold()
  for (const delta of deltas) fold.add(delta)
  const streamed = deltas.map((delta) => (delta.kind === 'text' ? delta.text : '')).join('')
  const folded = fold.folded()
  expect(folded === null, 'either an answer or a problem').toBe(problem !== null)
  const ms = Date.now() - NOW_S * 1000
  return { folded, problem, streamed, stored: outcome.stored, leases, doubts, ms }
}

/** Lets the clock advance while a slow upstream is awaited. */
async function inFakeTime(work: Promise<unknown>, { pauses, after }: Case): Promise<void> {
  if (pauses.length > 0 || after === 'open' || after === 'heartbeats') await untilSettled(work)
}

/** Nothing but timers and promises is used, so a turn of the event loop settles all promises. */
async function untilSettled(work: Promise<unknown>): Promise<void> {
  const state = { isOver: false }
  const end = () => {
    state.isOver = true
  }
  work.then(end, end)
  for (;;) {
    await new Promise<void>((resolve) => setImmediate(resolve))
    if (state.isOver) return
    await vi.advanceTimersToNextTimerAsync()
  }
}

/** An answer without the parts that differ between requests. */
function normalForm(result: Awaited<ReturnType<typeof ask>>) {
  const { folded, problem, streamed, stored, doubts, ms } = result
  if (folded === null) return { problem, streamed }
  const { id, object, created, ...completion } = v.parse(completionSchema, folded.completion)
  expect({ id, object, created }).toEqual({ id: ID, object: 'text_completion', created: NOW_S })
  const [doubt] = doubts
  return {
    completion,
    estimated: folded.estimated,
    stored,
    ...(doubt === undefined ? {} : { doubt }),
    ms,
  }
}

/** Bodies up to this length are split at every byte. */
const SHORT_BYTES = 160
/** Longer bodies are split at this many further places. */
const SAMPLE = 16

/**
 * Where to split a body in two: within two bytes of each line end, around each escape, inside each
 * character of several bytes, and at a sample of the other bytes that is the same in every run. At
 * those, state is carried over only as text of the current line, which any of them shows.
 */
function splitsOf(body: Uint8Array): number[] {
  const places = new Set<number>()
  body.forEach((byte, i) => {
    const isLineEnd = byte === 0x0a || byte === 0x0d
    if (isLineEnd || byte === 0x5c) for (let at = i - 1; at <= i + 2; at++) places.add(at)
    if (isLineEnd) places.add(i + 3).add(i - 2)
    if (byte >= 0x80) places.add(i).add(i + 1)
  })
  const step = body.length <= SHORT_BYTES ? 1 : Math.floor(body.length / SAMPLE)
  for (let at = 1; at < body.length; at += step) places.add(at)
  return [...places].filter((at) => at > 0 && at < body.length).sort((a, b) => a - b)
}

const pieces = (body: Uint8Array) => Array.from(body, (_, i) => body.subarray(i, i + 1))

/** No text of an upstream may reach a visitor through an error. */
function expectNothingOf(body: Uint8Array, problem: Problem | null) {
  const message = problem?.message ?? ''
  const theirs = new TextDecoder().decode(body)
  expect(message).not.toBe('')
  for (let at = 0; at + 16 <= message.length; at++) {
    expect(theirs).not.toContain(message.slice(at, at + 16))
  }
  expect(JSON.stringify(problem)).not.toContain('canary')
}

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'Date'], now: NOW_S * 1000 })
})

afterEach(() => {
  vi.useRealTimers()
})

test('there is a fixture folder for every adapter', () => {
  // The demo's adapter is that of `completions`.
  expect(folders).toEqual(wires.filter((wire) => wire !== 'demo').sort())
  expect(names.length).toBeGreaterThanOrEqual(60)
})

test.each(names)('generate() reads %s', async (name) => {
  const tested = caseNamed(name)
  const { expected } = tested
  const result = await ask(tested, [tested.body])
  if ('error' in expected) {
    expect(result.problem).toMatchObject(expected.error)
    if (expected.streamed !== undefined) expect(result.streamed).toBe(expected.streamed)
    expect(result.stored).toBe(false)
    expectNothingOf(tested.body, result.problem)
  } else {
    expect(normalForm(result)).toEqual(expected)
  }
  const accepted = tested.status >= 200 && tested.status <= 299 ? 1 : 0
  for (const lease of result.leases) expect(lease).toEqual({ accepted, settlements: 1 })
  expect(result.leases.length).toBeGreaterThan(0)
})

test.each(names)(
  'generate() reads %s the same regardless of how it is split',
  async (name) => {
    const tested = caseNamed(name)
    const { body } = tested
    const whole = normalForm(await ask(tested, [body]))
    expect(normalForm(await ask(tested, pieces(body))), 'byte by byte').toEqual(whole)
    const text = JSON.stringify(whole)
    for (const at of splitsOf(body)) {
      const split = normalForm(await ask(tested, [body.subarray(0, at), body.subarray(at)]))
      // Compare strings first: it is many times faster than toEqual.
      if (JSON.stringify(split) !== text) expect(split, `split at byte ${at}`).toEqual(whole)
    }
  },
  60_000,
)

const logprobsSchema = v.strictObject({
  tokens: v.array(v.string()),
  token_logprobs: v.array(v.nullable(v.number())),
  top_logprobs: v.nullable(v.array(v.nullable(v.record(v.string(), v.number())))),
  text_offset: v.array(v.number()),
})
const headSchema = {
  id: v.literal(ID),
  object: v.literal('text_completion'),
  created: v.literal(NOW_S),
  model: v.string(),
  system_fingerprint: v.optional(v.string()),
}
const choiceSchema = v.strictObject({
  text: v.string(),
  index: v.pipe(v.number(), v.integer()),
  logprobs: v.nullable(logprobsSchema),
  finish_reason: v.nullable(v.picklist(finishReasons)),
})
const plainChunkSchema = v.strictObject({ ...headSchema, choices: v.tuple([choiceSchema]) })
const countedChunkSchema = v.strictObject({
  ...headSchema,
  choices: v.tuple([choiceSchema]),
  usage: v.null(),
})
const count = v.pipe(v.number(), v.integer(), v.minValue(0))
const usageChunkSchema = v.strictObject({
  ...headSchema,
  choices: v.tuple([]),
  usage: v.strictObject({ prompt_tokens: count, completion_tokens: count, total_tokens: count }),
})
const errorSchema = v.strictObject({
  error: v.strictObject({
    message: v.pipe(v.string(), v.minLength(1)),
    type: v.string(),
    param: v.null(),
    code: v.string(),
  }),
})

/** The text a visitor receives, or null when the failure is a real status. */
async function emitted(tested: Case, chunks: readonly Uint8Array[], includeUsage: boolean) {
  vi.setSystemTime(NOW_S * 1000)
  const flight = new Flight((push) => start(tested, chunks, push).answered, {
    keepGoing: true,
    now: Date.now,
  })
  const shape = { api: 'completion', as: 'sse', stream: true, includeUsage } as const
  const stream = new StreamReader({
    flight,
    encoding: new Encodings(flight).of({ shape, resume: null }),
    shape,
    pipe: new TransformStream(),
    isRemote: false,
    onError() {},
  })
  const reading = new Response(stream.body).arrayBuffer()
  const hasBegun = stream.begun.then(
    () => true,
    () => false,
  )
  await inFakeTime(flight.over, tested)
  if (!(await hasBegun)) return null
  const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
  return { text: decoder.decode(await reading), end: await stream.ended }
}

/** The data of each event, which must be one `data:` line and a blank line. */
function eventsOf(text: string): string[] {
  const events = text.split('\n\n')
  expect(events.pop(), 'the last event is complete').toBe('')
  const comment = KEEP_ALIVE.trim()
  return events
    .filter((event) => event !== comment)
    .map((event) => {
      expect(event).toMatch(/^data: \S[^\r\n]*$/)
      return event.slice('data: '.length)
    })
}

const requested = names.flatMap((name) => [[name, false] as const, [name, true] as const])

test.each(requested)('the stream of %s, include_usage %s', async (name, includeUsage) => {
  const tested = caseNamed(name)
  const { expected } = tested
  const sent = await emitted(tested, pieces(tested.body), includeUsage)
  const again = await emitted(tested, [tested.body], includeUsage)
  expect(again === null).toBe(sent === null)
  if (sent === null) {
    expect(expected).toHaveProperty('error')
    return
  }
  const events = eventsOf(sent.text)
  const last = events.pop()
  if ('error' in expected) {
    expect(expected.streamed, 'a failure before any text has a real status').not.toBe('')
    expect(last, 'a failed stream has no terminator').not.toBe('[DONE]')
    const { error } = v.parse(errorSchema, JSON.parse(last ?? ''))
    expect(error.code).toBe(expected.error.code)
    expect(sent.end).toMatchObject({ code: expected.error.code })
  } else {
    expect(last).toBe('[DONE]')
    expect(sent.end).toBe('whole')
  }
  if (includeUsage && !('error' in expected)) {
    const chunk = v.parse(usageChunkSchema, JSON.parse(events.pop() ?? ''))
    expect(chunk.usage).toEqual(expected.completion['usage'])
  }
  const chunks = events.map((event) =>
    v.parse<typeof plainChunkSchema | typeof countedChunkSchema>(
      includeUsage ? countedChunkSchema : plainChunkSchema,
      JSON.parse(event),
    ),
  )
  expect(new Set(chunks.map(({ model }) => model)).size, 'one model').toBeLessThanOrEqual(1)
  const finished = new Map<number, string>()
  const texts = new Map<number, string>()
  for (const {
    choices: [choice],
  } of chunks) {
    const { index, text, finish_reason } = choice
    expect(finished.has(index), `nothing follows the finish of choice ${index}`).toBe(false)
    texts.set(index, (texts.get(index) ?? '') + text)
    if (finish_reason !== null) finished.set(index, finish_reason)
  }
  if ('error' in expected) {
    expect(finished.size).toBe(0)
    const all = [...texts.values()].join('')
    if (expected.streamed !== undefined) expect(all).toBe(expected.streamed)
    return
  }
  const whole = await ask(tested, [tested.body])
  const spoken = whole.folded?.completion.choices.map(({ index, text, finish_reason }) => {
    expect(texts.get(index)).toBe(text)
    expect(finished.get(index)).toBe(finish_reason)
    return index
  })
  expect(spoken).toEqual([...texts.keys()].sort((a, b) => a - b))
})
