// `npm run soak`: minutes of mixed load on the built Worker: hits in memory and KV, misses, streams,
// followers, GETs, resumes, disconnects, invalid requests, and an upstream that fails in every way it
// can. The exit code is 1 if an invariant (bench/soak-invariants.ts) is violated.
// `--seconds 180`, `--seed 1`: the same seed sends the same requests, but their timing still varies.
import { parseArgs } from 'node:util'
import { pick, type Random, seeded } from '../test/support/random.ts'
import { liveHeaps } from './heap.ts'
import {
  type Expectation,
  fault,
  faultsOfTotals,
  isStray,
  type MemorySample,
} from './soak-invariants.ts'
import {
  answerTo,
  type Behaviour,
  faults,
  promptOf,
  startSoakUpstream,
  wordsOf,
} from './soak-upstream.ts'
import { configFor, OPERATOR_TOKEN, ours } from './subjects.ts'
import { type Result, type Sent, visit } from './visitor.ts'

const { values: options } = parseArgs({
  options: { seconds: { type: 'string', default: '180' }, seed: { type: 'string' } },
})
const seconds = Number(options.seconds)
const seed = Number(options.seed ?? Date.now() % 1_000_000)
if (!(seconds > 0 && Number.isInteger(seed))) {
  throw new Error('Expected --seconds above 0 and a whole number as --seed')
}

/** The name of the run that exhausts its budget. */
const SMALL = 'small budget'
const ISOLATES = 3
const CLIENTS = 24
const VISITORS = 3000
/** The deadline of an upstream call; there may be two calls per request. */
const DEADLINE_MS = 4000
const GIVE_UP_MS = 20_000
/** A call without visitors ends by its deadline. Its lease would only expire 10 s later. */
const SETTLED_MS = DEADLINE_MS + 2000
/** The number of prompts that all visitors share. */
const POPULAR = 60

const config = (upstreamUrl: string, tokensPerDay: number) => ({
  ...configFor(upstreamUrl),
  upstreams: [
    {
      name: 'bench',
      base_url: upstreamUrl,
      first_byte_ms: 1500,
      idle_ms: 1500,
      deadline_ms: DEADLINE_MS,
      max_output_bytes: 65_536,
    },
  ],
  // A short time in memory, so that KV is read often; a long KV timeout, because the simulator is busy.
  cache: { memory_seconds: 5, kv_wait_ms: 5000 },
  budget: {
    tokens_per_day: tokensPerDay,
    tokens_per_visitor_per_day: tokensPerDay,
    streams_per_visitor: 50,
  },
})

/** A request and its expected result. */
interface Exchange {
  readonly sent: Sent
  readonly expected: Expectation
}

const forms = ['json', 'sse', 'sse', 'text', 'text stream'] as const

class Soak {
  readonly violations = new Map<string, string[]>()
  readonly outcomes = new Map<string, number>()
  /** How many requests came upon a connection that had been closed (bench/visitor.ts). */
  sentAgain = 0
  readonly #random: Random
  readonly #urls: readonly URL[]
  #serial = 0
  /** Ids of answers by prompt, for resuming. */
  readonly #ids = new Map<string, string>()

  constructor(random: Random, urls: readonly URL[]) {
    this.#random = random
    this.#urls = urls
  }

  get requests(): number {
    return [...this.outcomes.values()].reduce((sum, n) => sum + n, 0)
  }

  async run(untilMs: number): Promise<void> {
    const client = async () => {
      while (Date.now() < untilMs) await this.#step()
    }
    await Promise.all(Array.from({ length: CLIENTS }, client))
  }

  async #step(): Promise<void> {
    const chance = this.#random()
    if (chance < 0.5) return await this.#send(this.#post(this.#popular()))
    if (chance < 0.62) return await this.#send(this.#post(this.#fresh('ok')))
    if (chance < 0.7) return await this.#crowd()
    if (chance < 0.75) return await this.#send(this.#get())
    if (chance < 0.8) return await this.#send(this.#resumed())
    if (chance < 0.83) return await this.#send(this.#private())
    if (chance < 0.88) return await this.#send(this.#invalid())
    return await this.#send(this.#post(this.#fresh(pick(faults, this.#random))))
  }

  #popular(): string {
    // Lower ranks are more frequent.
    const rank = Math.floor(this.#random() ** 2 * POPULAR)
    return promptOf('ok', `popular ${rank}`)
  }

  #fresh(behaviour: Behaviour): string {
    this.#serial += 1
    return promptOf(behaviour, `fresh ${this.#serial}`)
  }

  /** Concurrent identical requests to all isolates. */
  async #crowd(): Promise<void> {
    const prompt = this.#fresh(pick(['ok', 'slow', 'slow', 'late', 'cut'], this.#random))
    const readers = 2 + Math.floor(this.#random() * 14)
    await Promise.all(Array.from({ length: readers }, () => this.#send(this.#post(prompt))))
  }

  #post(prompt: string, more: Partial<Sent> = {}): Exchange {
    const form = pick(forms, this.#random)
    const leaves = this.#random() < 0.1
    const headers = {
      ...this.#visitor(),
      'content-type': 'application/json',
      ...(form.startsWith('text') ? { accept: 'text/plain' } : {}),
      ...more.headers,
    }
    const stream = form === 'sse' || form === 'text stream'
    return {
      sent: {
        ...more,
        headers,
        body: JSON.stringify({ prompt, ...(stream ? { stream } : {}) }),
        giveUpAfterMs: GIVE_UP_MS,
        ...(leaves ? { leaveAfterMs: this.#random() * 300 } : {}),
      },
      expected: {
        what: `${form} of "${prompt}"`,
        ...answerFor(prompt),
        bareStream: form === 'text stream',
      },
    }
  }

  #get(): Exchange {
    const prompt = this.#random() < 0.8 ? this.#popular() : this.#fresh('ok')
    const path = `/v1/completions?prompt=${encodeURIComponent(prompt)}`
    return {
      sent: { method: 'GET', path, headers: this.#visitor(), giveUpAfterMs: GIVE_UP_MS },
      expected: { what: `GET of "${prompt}"`, ...answerFor(prompt) },
    }
  }

  /** A stream that resumes another one, or starts over with a new id. */
  #resumed(): Exchange {
    const prompt = this.#popular()
    const id = this.#ids.get(prompt) ?? 'cmpl-never'
    const chars = Math.floor(this.#random() * wordsOf(prompt).length)
    const body = JSON.stringify({ prompt, stream: true })
    const headers = {
      ...this.#visitor(),
      'content-type': 'application/json',
      'last-event-id': `${id}:${chars}`,
    }
    return {
      sent: { headers, body, giveUpAfterMs: GIVE_UP_MS },
      expected: { what: `resume of "${prompt}"`, ...answerFor(prompt), resume: { id, chars } },
    }
  }

  #private(): Exchange {
    return this.#post(this.#fresh('private'), { headers: { 'cache-control': 'no-store' } })
  }

  #invalid(): Exchange {
    const json = { ...this.#visitor(), 'content-type': 'application/json' }
    const sent: Omit<Sent, 'giveUpAfterMs'> = pick(
      [
        { headers: json, body: '{"prompt":' },
        { headers: json, body: '{"prompt":"x","colour":"red"}' },
        { headers: json, body: '{"prompt":""}' },
        { headers: json, body: JSON.stringify({ prompt: 'x'.repeat(100_000) }) },
        { headers: { ...json, 'content-type': 'image/png' }, body: 'x' },
        { headers: { ...json, origin: 'https://elsewhere.example' }, body: '{"prompt":"x"}' },
        { method: 'DELETE', headers: json },
        { method: 'GET', path: '/v1/nothing', headers: json },
      ],
      this.#random,
    )
    return {
      sent: { ...sent, giveUpAfterMs: GIVE_UP_MS },
      expected: { what: `invalid ${sent.method ?? sent.body?.slice(0, 40)}`, ...NO_ANSWER },
    }
  }

  #visitor(): Record<string, string> {
    const n = Math.floor(this.#random() * VISITORS)
    return { 'cf-connecting-ip': `10.0.${n >> 8}.${n & 255}` }
  }

  async #send({ sent, expected }: Exchange): Promise<void> {
    const url = this.#urls[Math.floor(this.#random() * this.#urls.length)]
    if (url === undefined) return
    const result = await visit(url, sent)
    this.#storeId(expected, result)
    const outcome = outcomeOf(result)
    this.outcomes.set(outcome, (this.outcomes.get(outcome) ?? 0) + 1)
    if (result.sentAgain) this.sentAgain += 1
    const violation = fault(expected, result)
    if (violation === null) return
    const at = new Date().toISOString()
    const request = `${expected.what} (${result.headers['x-request-id']}, ${at}, ${result.error})`
    this.violations.set(violation, [...(this.violations.get(violation) ?? []), request])
  }

  #storeId({ what }: Expectation, { status, text }: Result): void {
    const [, prompt] = /"(ok: popular \d+)"$/.exec(what) ?? []
    const [, id] = /"id":"(cmpl-\w+)"/.exec(text) ?? []
    if (status === 200 && prompt !== undefined && id !== undefined) this.#ids.set(prompt, id)
  }
}

const NO_ANSWER = { answer: null, words: '', bareStream: false, resume: null }

const answerFor = (prompt: string) => ({
  ...NO_ANSWER,
  answer: answerTo(prompt),
  words: wordsOf(prompt),
})

/** For the summary: where an answer came from, or why there was no answer. */
function outcomeOf({ how, status, headers, text }: Result): string {
  if (how !== 'whole') return how
  if (status !== 200) return /"code":"(\w+)"/.exec(text)?.[1] ?? String(status)
  const from = String(headers['cache-status'])
    .replace('edge-completions; ', '')
    .replace(/ttl=\d+; /, '')
  return /"error":\{/.test(text) ? `${from}, then an error event` : from
}

/** A run with its own Workers. @returns the violated invariants */
async function soak(name: string, runSeconds: number, tokensPerDay: number): Promise<string[]> {
  const upstream = await startSoakUpstream()
  const strays: string[] = []
  const onLog = (line: string) => {
    if (isStray(line)) strays.push(line)
  }
  const subject = await ours(config(upstream.url, tokensPerDay), {
    isolates: ISOLATES,
    inspected: true,
    onLog,
  })
  const figures = async () => {
    const headers = { authorization: `Bearer ${OPERATOR_TOKEN}` }
    const reply = await fetch(new URL('/admin/usage', subject.url), { headers })
    return ((await reply.json()) as { budget: { spent: number; reserved: number } }).budget
  }
  const day = new Date().getUTCDate()
  const startedAt = Date.now()
  const memory: MemorySample[] = []
  const run = new Soak(seeded(seed), subject.urls)
  const running = run.run(startedAt + runSeconds * 1000)
  const gapMs = Math.max(1000, (runSeconds * 1000) / 16)
  while (Date.now() + gapMs < startedAt + runSeconds * 1000) {
    await passed(gapMs)
    const heaps = [...(await liveHeaps(subject.miniflare))].filter(([of]) => of.startsWith('ours'))
    memory.push({
      atS: Math.round((Date.now() - startedAt) / 1000),
      requests: run.requests,
      residentMb: subject.memoryBytes() / 1_048_576,
      liveMb: heaps.reduce((sum, [, bytes]) => sum + bytes, 0) / 1_048_576,
    })
  }
  await running
  // Wait until upstream calls whose visitors have left end and settle.
  const overAt = Date.now()
  let budget = await figures()
  for (const until = Date.now() + SETTLED_MS; budget.reserved > 0 && Date.now() < until; ) {
    await passed(250)
    budget = await figures()
  }
  const settledS = (Date.now() - overAt) / 1000
  const { answered, tokens: served, calls } = upstream
  await Promise.all([subject.stop(), upstream.stop()])
  const shared = new Map([...answered].filter(([prompt]) => !prompt.startsWith('private:')))
  const dayEnded = new Date().getUTCDate() !== day
  const totals = {
    ...budget,
    budget: tokensPerDay,
    served,
    dayEnded,
    answered: shared,
    strays,
    memory,
  }
  report(name, run, calls, totals)
  console.log(`  every lease ended ${settledS.toFixed(1)} s after the last request`)
  return [
    ...[...run.violations].map(
      ([wrong, where]) => `${where.length} × ${wrong}: ${where.slice(0, 3).join('; ')}`,
    ),
    ...faultsOfTotals(totals),
    // Otherwise this run would prove nothing.
    ...(name === SMALL && !run.outcomes.has('budget_exhausted')
      ? ['the budget was never exhausted']
      : []),
  ]
}

function report(
  name: string,
  { outcomes, requests, sentAgain }: Soak,
  calls: number,
  totals: Parameters<typeof faultsOfTotals>[0],
): void {
  console.log(`${name}: ${requests} requests, ${calls} upstream calls`)
  for (const [outcome, n] of [...outcomes].toSorted(([, a], [, b]) => b - a)) {
    console.log(`  ${String(n).padStart(7)}  ${outcome}`)
  }
  if (sentAgain > 0) console.log(`  ${sentAgain} sent again, as their connection had been closed`)
  const { spent, reserved, budget, served, memory } = totals
  console.log(`  tokens: ${served} served, ${spent} spent, ${reserved} reserved, of ${budget}`)
  const curve = (of: 'residentMb' | 'liveMb') =>
    memory.map((sample) => sample[of].toFixed(0)).join(' ')
  console.log(`  resident memory, MB: ${curve('residentMb')}; live heaps: ${curve('liveMb')}`)
}

function passed(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}

console.log(`seed ${seed}, ${seconds} s`)
// First with an ample budget, then with one that is soon exhausted.
const smallSeconds = Math.min(15, seconds / 4)
const violations = [
  ...(await soak('ample budget', seconds - smallSeconds, 9_000_000_000)),
  ...(await soak(SMALL, smallSeconds, 3000)),
]
for (const line of violations) console.error(`VIOLATED  ${line}`)
console.log(
  violations.length === 0
    ? 'every invariant held'
    : `${violations.length} invariants violated, seed ${seed}`,
)
process.exitCode = violations.length === 0 ? 0 : 1
