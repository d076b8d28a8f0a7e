// The invariants of a soak run (bench/soak.ts): those of each answer, and those of the whole run.
import { codes } from '../src/errors.ts'
import type { Result } from './visitor.ts'

export interface Expectation {
  /** A description for messages. */
  readonly what: string
  /** The complete answer of the upstream; null if no complete answer is possible. */
  readonly answer: string | null
  /** Every partial answer must be a prefix of this. */
  readonly words: string
  /** A plain-text stream, which can only report a failure by breaking the connection. */
  readonly bareStream: boolean
  /** Sent as `Last-Event-ID`. */
  readonly resume: { readonly id: string; readonly chars: number } | null
}

/** The invariant that a result violates, or null. */
export function fault(expected: Expectation, result: Result): string | null {
  const { how, status } = result
  if (how === 'hung') return 'hung: timed out'
  if (how === 'broken' && expected.bareStream) return faultOfBreak(expected, result)
  if (status === 0) return how === 'left' ? null : 'no response: the connection broke'
  if (status >= 400) return how === 'left' ? null : faultOfError(result)
  if (status !== 200) return `unexpected status ${status}`
  const type = String(result.headers['content-type'])
  if (type.startsWith('text/event-stream')) return faultOfStream(expected, result)
  if (type.startsWith('text/plain')) return faultOfText(expected, result)
  if (how === 'left') return null
  if (how === 'broken') return 'a JSON answer broke off'
  return faultOfWhole(expected.answer, textOf(result.text))
}

function faultOfError({ status, text }: Result): string | null {
  let code: unknown
  try {
    code = JSON.parse(text).error.code
  } catch {
    return `status ${status} without an error object: ${text.slice(0, 100)}`
  }
  if (status === 500 || code === 'internal') return `internal error, status ${status}`
  if (code === 'misconfigured') return 'misconfigured'
  return codes.some((known) => known === code) ? null : `unknown code ${String(code)}`
}

function faultOfText(expected: Expectation, result: Result): string | null {
  if (result.how === 'whole') return faultOfWhole(expected.answer, result.text)
  if (result.how === 'broken') return 'a plain-text answer without streaming broke off'
  return faultOfBreak(expected, result)
}

/** The connection may have broken before the status. */
function faultOfBreak({ words }: Expectation, { text }: Result): string | null {
  // The last character may be incomplete.
  return words.startsWith(text.replace(/\uFFFD+$/, ''))
    ? null
    : 'a partial answer is not a prefix of the answer'
}

const DONE = 'data: [DONE]'

function faultOfStream(expected: Expectation, { how, text }: Result): string | null {
  const events = text.split('\n\n')
  // Text after the last blank line is an incomplete event.
  const rest = events.pop()
  let received = ''
  let id: string | null = null
  let finished = false
  for (const [i, event] of events.entries()) {
    if (event === ':') continue
    if (finished) return 'something follows [DONE]'
    if (event === DONE) {
      finished = true
      continue
    }
    const chunk = parse(event)
    if (chunk === null) return `invalid event: ${event.slice(0, 100)}`
    if (chunk.error !== undefined) {
      if (i < events.length - 1) return 'something follows an error event'
      if (chunk.error.code === 'internal') return 'internal error in the stream'
      return faultOfPart(expected, id, received)
    }
    id = chunk.id
    received += chunk.choices[0]?.text ?? ''
  }
  if (how === 'left') return faultOfPart(expected, id, received)
  if (how === 'broken') return 'an event stream broke off without an error event'
  if (!finished || rest !== '')
    return 'an event stream ended with neither [DONE] nor an error event'
  const { answer } = expected
  return faultOfWhole(answer === null ? null : remainder(expected, id, answer), received)
}

interface Chunk {
  readonly id: string
  readonly choices: readonly { readonly text: string }[]
  readonly error?: { readonly code: string }
}

function parse(event: string): Chunk | null {
  try {
    return event.startsWith('data: ') ? JSON.parse(event.slice('data: '.length)) : null
  } catch {
    return null
  }
}

/** The text after the resume point. A different id means that the answer started over. */
function remainder({ resume }: Expectation, id: string | null, text: string): string {
  return resume !== null && resume.id === id ? text.slice(resume.chars) : text
}

function faultOfPart(expected: Expectation, id: string | null, received: string): string | null {
  if (id === null) return null
  return remainder(expected, id, expected.words).startsWith(received)
    ? null
    : 'a partial answer is not a prefix of the answer'
}

function faultOfWhole(answer: string | null, received: string | null): string | null {
  if (answer === null) return 'a complete answer although the upstream did not complete one'
  return received === answer
    ? null
    : `not the answer of the upstream: ${String(received).slice(0, 100)}`
}

function textOf(json: string): string | null {
  try {
    return JSON.parse(json).choices[0].text
  } catch {
    return null
  }
}

/** The figures at the end of a run. */
export interface Totals {
  readonly budget: number
  readonly spent: number
  readonly reserved: number
  /** The minimum that the upstream could charge for. */
  readonly served: number
  /** Midnight passed, so `spent` does not include the previous day. */
  readonly dayEnded: boolean
  /** How often the upstream answered each prompt whose answer can be shared. */
  readonly answered: ReadonlyMap<string, number>
  /** Unexpected lines of the log. */
  readonly strays: readonly string[]
  readonly memory: readonly MemorySample[]
}

/** workerd logs this when a plain-text stream breaks off on purpose. */
const BREAK_OFF = 'remote.jsg.Error: the answer broke off'

/** Whether a line of the log is unexpected. */
export function isStray(line: string): boolean {
  try {
    const { event } = JSON.parse(line)
    return typeof event !== 'string' || event === 'internal' || event === 'misconfigured'
  } catch {
    return !line.endsWith(BREAK_OFF)
  }
}

export interface MemorySample {
  readonly atS: number
  /** The requests so far. */
  readonly requests: number
  readonly residentMb: number
  /** The heap of our isolates after a forced garbage collection. */
  readonly liveMb: number
}

export function faultsOfTotals(totals: Totals): string[] {
  const { budget, spent, reserved, served, dayEnded, answered, strays, memory } = totals
  const found = strays.map((line) => `in the log: ${line.slice(0, 300)}`)
  if (spent + reserved > budget)
    found.push(`over the budget: ${spent} and ${reserved} of ${budget}`)
  if (!dayEnded && served > spent + reserved) {
    found.push(`the upstream served ${served} tokens, but the ledger has ${spent + reserved}`)
  }
  if (reserved > 0) found.push(`a lease was not settled: ${reserved} tokens are still reserved`)
  const twice = [...answered].filter(([, times]) => times > 1)
  if (twice.length > 0) {
    found.push(`${twice.length} prompts were paid for twice, as ${JSON.stringify(twice[0])}`)
  }
  const grown = growthOf(memory)
  if (grown !== null) found.push(grown)
  return found
}

/** A shorter run is still warming up. */
const MIN_RUN_S = 60
/** Maximum growth between the third and the last quarter. */
const LIVE_MB = 4
const RESIDENT_MB = 60
/**
 * The memory outside of the heaps grows slowly with the requests of a mix, though no kind of request
 * alone makes it grow (docs/performance.md).
 */
const MIX_BYTES = 85

function growthOf(memory: readonly MemorySample[]): string | null {
  if ((memory.at(-1)?.atS ?? 0) < MIN_RUN_S) return null
  const quarter = Math.floor(memory.length / 4)
  const mean = (samples: readonly MemorySample[], of: keyof MemorySample) =>
    samples.reduce((sum, sample) => sum + sample[of], 0) / samples.length
  const growth = (of: keyof MemorySample) =>
    mean(memory.slice(-quarter), of) - mean(memory.slice(-2 * quarter, -quarter), of)
  const mixMb = (growth('requests') * MIX_BYTES) / 1_048_576
  for (const [of, most] of [
    ['liveMb', LIVE_MB],
    ['residentMb', RESIDENT_MB + mixMb],
  ] as const) {
    const grown = growth(of)
    if (grown > most) return `memory grows: ${of} by ${grown.toFixed(1)} in a quarter of the run`
  }
  return null
}
