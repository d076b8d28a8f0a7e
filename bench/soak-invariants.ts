// What must hold whatever happens to a Worker under load: of each answer by itself, and of the whole
// run in the end. Pure: bench/soak.ts does the asking.
import { codes } from '../src/errors.ts'
import type { Got } from './visitor.ts'

export interface Asked {
  /** For the message. */
  readonly what: string
  /** The whole answer, as the upstream makes it; null: there is none, or none is due. */
  readonly answer: string | null
  /** What any part of an answer begins with. */
  readonly words: string
  /** A stream of bare text: a failure has no other way to be told than to break off. */
  readonly bareStream: boolean
  /** Sent as `Last-Event-ID`. */
  readonly resume: { readonly id: string; readonly chars: number } | null
}

/** What an answer breaks, in a sentence; null: nothing. */
export function fault(asked: Asked, got: Got): string | null {
  if (got.how === 'hung') return 'hung: it was not over in time'
  if (got.how === 'broken' && asked.bareStream) return faultOfBreak(asked, got)
  if (got.status === 0) return got.how === 'left' ? null : 'no answer: the connection broke'
  if (got.status >= 400) return got.how === 'left' ? null : faultOfError(got)
  if (got.status !== 200) return `status ${got.status} is none of ours`
  const type = String(got.headers['content-type'])
  if (type.startsWith('text/event-stream')) return faultOfStream(asked, got)
  if (type.startsWith('text/plain')) return faultOfText(asked, got)
  if (got.how === 'left') return null
  if (got.how === 'broken') return 'a JSON answer broke off'
  return faultOfWhole(asked.answer, textOf(got.text))
}

function faultOfError({ status, text }: Got): string | null {
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

function faultOfText(asked: Asked, got: Got): string | null {
  if (got.how === 'whole') return faultOfWhole(asked.answer, got.text)
  if (got.how === 'broken') return 'bare text broke off that was to be sent whole'
  return faultOfBreak(asked, got)
}

/** There may have been no time for a status even. */
function faultOfBreak({ words }: Asked, { text }: Got): string | null {
  // Bytes of a character may be missing where it broke off.
  return words.startsWith(text.replace(/\uFFFD+$/, ''))
    ? null
    : 'a part is no beginning of the answer'
}

const DONE = 'data: [DONE]'

function faultOfStream(asked: Asked, { how, text }: Got): string | null {
  const events = text.split('\n\n')
  // What follows the last blank line is no event yet.
  const rest = events.pop()
  let said = ''
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
    if (chunk === null) return `no event of ours: ${event.slice(0, 100)}`
    if (chunk.error !== undefined) {
      if (i < events.length - 1) return 'something follows an error event'
      if (chunk.error.code === 'internal') return 'internal error, in band'
      return faultOfPart(asked, id, said)
    }
    id = chunk.id
    said += chunk.choices[0]?.text ?? ''
  }
  if (how === 'left') return faultOfPart(asked, id, said)
  if (how === 'broken') return 'an event stream broke off without an error event'
  if (!finished || rest !== '')
    return 'an event stream ended with neither [DONE] nor an error event'
  return faultOfWhole(asked.answer === null ? null : from(asked, id, asked.answer), said)
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

/** Another id means that it began anew. */
function from({ resume }: Asked, id: string | null, text: string): string {
  return resume !== null && resume.id === id ? text.slice(resume.chars) : text
}

function faultOfPart(asked: Asked, id: string | null, said: string): string | null {
  if (id === null) return null
  return from(asked, id, asked.words).startsWith(said)
    ? null
    : 'a part is no beginning of the answer'
}

function faultOfWhole(answer: string | null, said: string | null): string | null {
  if (answer === null) return 'a whole answer where the upstream gave none'
  return said === answer ? null : `not what the upstream said: ${String(said).slice(0, 100)}`
}

function textOf(json: string): string | null {
  try {
    return JSON.parse(json).choices[0].text
  } catch {
    return null
  }
}

/** What is known when everything is over. */
export interface Totals {
  readonly budget: number
  readonly spent: number
  readonly reserved: number
  /** What the upstream could charge for, at least. */
  readonly served: number
  /** Midnight passed: what was spent yesterday is not in `spent`. */
  readonly dayEnded: boolean
  /** Of each prompt whose answer can be shared, how often the upstream gave it. */
  readonly answered: ReadonlyMap<string, number>
  /** Lines of the log that are no event of ours, and internal ones. */
  readonly strays: readonly string[]
  readonly memory: readonly MemorySample[]
}

/** What workerd says when a stream of bare text is made to break off. */
const TOLD = 'remote.jsg.Error: the answer broke off'

/** Whether a line of the log is neither an event that may happen nor the runtime's word for one. */
export function isStray(line: string): boolean {
  try {
    const { event } = JSON.parse(line)
    return typeof event !== 'string' || event === 'internal' || event === 'misconfigured'
  } catch {
    return !line.endsWith(TOLD)
  }
}

export interface MemorySample {
  readonly atS: number
  readonly residentMb: number
  /** Heap of our isolates after a forced collection. */
  readonly liveMb: number
}

export function faultsOfTotals(totals: Totals): string[] {
  const { budget, spent, reserved, served, dayEnded, answered, strays, memory } = totals
  const found = strays.map((line) => `in the log: ${line.slice(0, 300)}`)
  if (spent + reserved > budget)
    found.push(`over the budget: ${spent} and ${reserved} of ${budget}`)
  if (!dayEnded && served > spent + reserved) {
    found.push(`the upstream served ${served} tokens, the ledger knows of ${spent + reserved}`)
  }
  if (reserved > 0) found.push(`a lease is left: ${reserved} tokens are still reserved`)
  const twice = [...answered].filter(([, times]) => times > 1)
  if (twice.length > 0) {
    found.push(`${twice.length} prompts were paid for twice, as ${JSON.stringify(twice[0])}`)
  }
  const grown = growthOf(memory)
  if (grown !== null) found.push(grown)
  return found
}

/** In a shorter run everything is still being warmed up. */
const SHORTEST_S = 60
/** Between the third and the last quarter. */
const LIVE_MB = 4
const RESIDENT_MB = 60

function growthOf(memory: readonly MemorySample[]): string | null {
  if ((memory.at(-1)?.atS ?? 0) < SHORTEST_S) return null
  const quarter = Math.floor(memory.length / 4)
  const mean = (samples: readonly MemorySample[], of: 'liveMb' | 'residentMb') =>
    samples.reduce((sum, sample) => sum + sample[of], 0) / samples.length
  for (const [of, most] of [
    ['liveMb', LIVE_MB],
    ['residentMb', RESIDENT_MB],
  ] as const) {
    const grown = mean(memory.slice(-quarter), of) - mean(memory.slice(-2 * quarter, -quarter), of)
    if (grown > most) return `memory grows: ${of} by ${grown.toFixed(1)} in a quarter of the run`
  }
  return null
}
