// `npm run soak`: some minutes of everything at once on the built Worker: hits of memory and of KV,
// misses, streams, followers, GETs, resumes, visitors who leave, bad requests, and an upstream that
// fails in every way it can. Ends non-zero when an invariant (bench/soak-invariants.ts) is broken.
// `--seconds 180`, `--seed 1`: the same seed asks the same; what meets what differs all the same.
import { parseArgs } from 'node:util'
import { pick, type Random, seeded } from '../test/support/random.ts'
import { liveHeaps } from './heap.ts'
import { type Asked, fault, faultsOfTotals, isStray, type MemorySample } from './soak-invariants.ts'
import {
  answerTo,
  type Behaviour,
  faults,
  promptOf,
  startSoakUpstream,
  wordsOf,
} from './soak-upstream.ts'
import { configFor, OPERATOR_TOKEN, ours } from './subjects.ts'
import { type Got, type Sent, visit } from './visitor.ts'

const { values: options } = parseArgs({
  options: { seconds: { type: 'string', default: '180' }, seed: { type: 'string' } },
})
const seconds = Number(options.seconds)
const seed = Number(options.seed ?? Date.now() % 1_000_000)
if (!(seconds > 0 && Number.isInteger(seed))) {
  throw new Error('Cannot soak: --seconds takes a number above 0, --seed a whole number')
}

const ISOLATES = 3
const CLIENTS = 24
const VISITORS = 3000
/** An upstream call may take 4 s, and there are two of them. */
const DEADLINE_MS = 4000
const GIVE_UP_MS = 20_000
/** A load that goes on without its visitors ends by its deadline; a lease would expire 10 s later. */
const SETTLED_MS = DEADLINE_MS + 2000
/** Prompts that everybody asks for. */
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
  // Short, so that KV is read again and again; patient, so that a busy simulator is no miss.
  cache: { memory_seconds: 5, kv_wait_ms: 5000 },
  budget: {
    tokens_per_day: tokensPerDay,
    tokens_per_visitor_per_day: tokensPerDay,
    streams_per_visitor: 50,
  },
})

/** What one visitor sends, and what it may get. */
interface Turn {
  readonly sent: Sent
  readonly asked: Asked
}

const forms = ['json', 'sse', 'sse', 'text', 'text stream'] as const

class Soak {
  readonly broken = new Map<string, string[]>()
  readonly outcomes = new Map<string, number>()
  readonly #random: Random
  readonly #urls: readonly URL[]
  #serial = 0
  /** Ids of answers, to go on from. */
  readonly #ids = new Map<string, string>()

  constructor(random: Random, urls: readonly URL[]) {
    this.#random = random
    this.#urls = urls
  }

  async run(untilMs: number): Promise<void> {
    const client = async () => {
      while (Date.now() < untilMs) await this.#step()
    }
    await Promise.all(Array.from({ length: CLIENTS }, client))
  }

  async #step(): Promise<void> {
    const chance = this.#random()
    if (chance < 0.5) return await this.#ask(this.#turn(this.#popular()))
    if (chance < 0.62) return await this.#ask(this.#turn(this.#fresh('ok')))
    if (chance < 0.7) return await this.#crowd()
    if (chance < 0.75) return await this.#ask(this.#get())
    if (chance < 0.8) return await this.#ask(this.#resumed())
    if (chance < 0.83) return await this.#ask(this.#private())
    if (chance < 0.88) return await this.#ask(this.#nonsense())
    return await this.#ask(this.#turn(this.#fresh(pick(faults, this.#random))))
  }

  #popular(): string {
    // The first are asked for most.
    const rank = Math.floor(this.#random() ** 2 * POPULAR)
    return promptOf('ok', `popular ${rank}`)
  }

  #fresh(behaviour: Behaviour): string {
    this.#serial += 1
    return promptOf(behaviour, `fresh ${this.#serial}`)
  }

  /** Many who ask the same at once, wherever they are. */
  async #crowd(): Promise<void> {
    const prompt = this.#fresh(pick(['ok', 'slow', 'slow', 'late', 'cut'], this.#random))
    const readers = 2 + Math.floor(this.#random() * 14)
    await Promise.all(Array.from({ length: readers }, () => this.#ask(this.#turn(prompt))))
  }

  #turn(prompt: string, more: Partial<Sent> = {}): Turn {
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
      asked: {
        what: `${form} of "${prompt}"`,
        ...expected(prompt),
        bareStream: form === 'text stream',
      },
    }
  }

  #get(): Turn {
    const prompt = this.#random() < 0.8 ? this.#popular() : this.#fresh('ok')
    const path = `/v1/completions?prompt=${encodeURIComponent(prompt)}`
    return {
      sent: { method: 'GET', path, headers: this.#visitor(), giveUpAfterMs: GIVE_UP_MS },
      asked: { what: `GET of "${prompt}"`, ...expected(prompt) },
    }
  }

  /** A stream that goes on where another one stopped, or says so. */
  #resumed(): Turn {
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
      asked: { what: `resume of "${prompt}"`, ...expected(prompt), resume: { id, chars } },
    }
  }

  #private(): Turn {
    return this.#turn(this.#fresh('private'), { headers: { 'cache-control': 'no-store' } })
  }

  #nonsense(): Turn {
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
      asked: { what: `nonsense ${sent.method ?? sent.body?.slice(0, 40)}`, ...NOTHING },
    }
  }

  #visitor(): Record<string, string> {
    const n = Math.floor(this.#random() * VISITORS)
    return { 'cf-connecting-ip': `10.0.${n >> 8}.${n & 255}` }
  }

  async #ask({ sent, asked }: Turn): Promise<void> {
    const url = this.#urls[Math.floor(this.#random() * this.#urls.length)]
    if (url === undefined) return
    const got = await visit(url, sent)
    this.#remember(asked, got)
    const outcome = outcomeOf(got)
    this.outcomes.set(outcome, (this.outcomes.get(outcome) ?? 0) + 1)
    const wrong = fault(asked, got)
    if (wrong === null) return
    const request = String(got.headers['x-request-id'])
    this.broken.set(wrong, [...(this.broken.get(wrong) ?? []), `${asked.what} (${request})`])
  }

  #remember({ what }: Asked, { status, text }: Got): void {
    const [, prompt] = /"(ok: popular \d+)"$/.exec(what) ?? []
    const [, id] = /"id":"(cmpl-\w+)"/.exec(text) ?? []
    if (status === 200 && prompt !== undefined && id !== undefined) this.#ids.set(prompt, id)
  }
}

const NOTHING = { answer: null, words: '', bareStream: false, resume: null }

const expected = (prompt: string) => ({
  ...NOTHING,
  answer: answerTo(prompt),
  words: wordsOf(prompt),
})

/** For the summary: where an answer came from, or why there was none. */
function outcomeOf({ how, status, headers, text }: Got): string {
  if (how !== 'whole') return how
  if (status !== 200) return /"code":"(\w+)"/.exec(text)?.[1] ?? String(status)
  const from = String(headers['cache-status'])
    .replace('edge-completions; ', '')
    .replace(/ttl=\d+; /, '')
  return /"error":\{/.test(text) ? `${from}, then an error event` : from
}

/** A run on Workers of its own. @returns what it broke */
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
      residentMb: subject.memoryBytes() / 1_048_576,
      liveMb: heaps.reduce((sum, [, bytes]) => sum + bytes, 0) / 1_048_576,
    })
  }
  await running
  // Loads that go on without their visitors end, and settle.
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
  tell(name, run, calls, totals)
  console.log(`  every lease ended ${settledS.toFixed(1)} s after the last request`)
  return [
    ...[...run.broken].map(([wrong, where]) => `${where.length} × ${wrong}: ${where[0]}`),
    ...faultsOfTotals(totals),
    // Else it has shown nothing.
    ...(name === 'poor' && !run.outcomes.has('budget_exhausted') ? ['the budget never ended'] : []),
  ]
}

function tell(
  name: string,
  { outcomes }: Soak,
  calls: number,
  totals: Parameters<typeof faultsOfTotals>[0],
): void {
  const requests = [...outcomes.values()].reduce((sum, n) => sum + n, 0)
  console.log(`${name}: ${requests} requests, ${calls} upstream calls`)
  for (const [outcome, n] of [...outcomes].toSorted(([, a], [, b]) => b - a)) {
    console.log(`  ${String(n).padStart(7)}  ${outcome}`)
  }
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
// First in plenty, then with a budget that is soon gone.
const poorSeconds = Math.min(15, seconds / 4)
const broken = [
  ...(await soak('plenty', seconds - poorSeconds, 9_000_000_000)),
  ...(await soak('poor', poorSeconds, 3000)),
]
for (const line of broken) console.error(`BROKEN  ${line}`)
console.log(broken.length === 0 ? 'every invariant held' : `${broken.length} broken, seed ${seed}`)
process.exitCode = broken.length === 0 ? 0 : 1
