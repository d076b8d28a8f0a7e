// How the cost of a request grows with the size of its input: CPU time of workerd at each size, with all
// sizes in each round. Nothing should grow faster than linearly.
import { readFileSync } from 'node:fs'
import { fly, readers } from './flights.ts'
import { ask, load } from './load.ts'
import { type Figure, figureOf, inRounds } from './measure.ts'
import { configFor, ours, type Question, type Subject } from './subjects.ts'
import type { BenchUpstream } from './upstream.ts'

/** One line of the chart. */
interface Curve {
  readonly name: string
  /** Microseconds of CPU at each size. */
  readonly us: readonly Figure[]
}

export interface Growth {
  readonly title: string
  readonly sizes: readonly number[]
  readonly curves: readonly Curve[]
}

/** The approximate length of a token in English text. */
const TOKEN_CHARS = 4
const SHORT = { events: 1, chars: 100 }

/** Measures the CPU time of one request in µs. */
type Measure = (size: number, round: number) => Promise<number>

interface Axis {
  readonly title: string
  readonly sizes: readonly number[]
  /** Starts the subjects. */
  begin(): Promise<{
    readonly curves: Readonly<Record<string, Measure>>
    readonly subjects: readonly Subject[]
  }>
}

export function axesOf(upstream: BenchUpstream): Axis[] {
  const begin = async (
    curvesOf: (subject: Subject) => Readonly<Record<string, Measure>>,
    more: object = {},
  ) => {
    const subject = await ours(configFor(upstream.url, more))
    return { curves: curvesOf(subject), subjects: [subject] }
  }
  const cpuOf = async (
    subject: Subject,
    requests: number,
    question: (i: number) => Question,
    oneVisitor = false,
  ) => {
    const before = subject.cpuMs()
    await load(subject, { requests, atOnce: 8, question, text: upstream.text(), oneVisitor })
    await subject.quiet()
    return ((subject.cpuMs() - before) * 1000) / requests
  }
  const hit = async (subject: Subject, prompt: string) => {
    await ask(subject.url, subject.sent({ prompt }))
    return await cpuOf(subject, 1000, () => ({ prompt }), true)
  }
  /** One subject per size, because their state differs. */
  const beginEach = async (
    sizes: readonly number[],
    start: (size: number) => Promise<Subject>,
    curvesOf: (of: (size: number) => Subject) => Readonly<Record<string, Measure>>,
  ) => {
    const subjects = new Map<number, Subject>()
    for (const size of sizes) subjects.set(size, await start(size))
    const of = (size: number) => subjects.get(size) as Subject
    return { curves: curvesOf(of), subjects: [...subjects.values()] }
  }
  // More would need more file descriptors than many machines allow (memory.ts, `MISSES`).
  const keys = [50, 150, 500, 1500, 4500]
  const visitors = [300, 3000, 30_000, 300_000]
  const entries = [1, 10, 100, 1000, 8000]
  return [
    {
      title: 'prompt, bytes',
      sizes: [100, 320, 1000, 3200, 10_000, 32_000],
      begin: () =>
        begin((subject) => ({
          'memory hit': async (bytes) => {
            upstream.answer(SHORT)
            return await hit(subject, promptOf('kept', bytes))
          },
          'miss, JSON': async (bytes, round) => {
            upstream.answer(SHORT)
            const question = (i: number) => ({ prompt: promptOf(`new ${round} ${i}`, bytes) })
            return await cpuOf(subject, 60, question)
          },
        })),
    },
    {
      title: 'answer, tokens',
      sizes: [10, 40, 160, 640, 2500, 8000],
      begin: () =>
        begin((subject) => ({
          'memory hit': async (tokens) => {
            upstream.answer({ events: 1, chars: tokens * TOKEN_CHARS })
            return await hit(subject, `kept, answered with ${tokens}`)
          },
          'miss, stream': async (tokens, round) => {
            upstream.answer({ events: tokens, chars: TOKEN_CHARS })
            const requests = Math.max(2, Math.min(50, Math.round(4000 / tokens)))
            return await cpuOf(subject, requests, (i) => ({
              prompt: `streamed ${tokens} ${round} ${i}`,
              stream: true,
            }))
          },
        })),
    },
    {
      title: 'readers of a flight',
      sizes: [1, 5, 20, 100, 500, 2000],
      begin: () =>
        begin((subject) => ({
          'each reader, stream': async (count, round) => {
            // A small flight is too short to measure, so run several.
            const flights = Math.max(1, Math.round(20 / count))
            let us = 0
            for (let i = 0; i < flights; i++) {
              const question = { prompt: `flight of ${count}, ${round} ${i}`, stream: true }
              const answer = { events: 8, chars: 100 }
              us += await fly(subject, upstream, { questions: readers(count, question), answer })
            }
            return us / flights
          },
        })),
    },
    {
      title: 'keys in flight',
      sizes: keys,
      begin: () =>
        beginEach(
          keys,
          // Long enough that thousands of concurrent KV reads do not time out.
          () => ours(configFor(upstream.url, { cache: { kv_wait_ms: 60_000 } })),
          (of) => ({
            'each miss, JSON': async (count, round) => {
              const questions = Array.from({ length: count }, (_, i) => ({
                prompt: `one of ${count}, ${round} ${i}`,
              }))
              return await fly(of(count), upstream, { questions, answer: SHORT, atOnce: 50 })
            },
          }),
        ),
    },
    {
      title: 'visitors in the ledger',
      sizes: visitors,
      begin: () =>
        beginEach(
          visitors,
          async (count) => {
            const main = readFileSync('bench/crowded-ledger.js', 'utf8')
            const subject = await ours(configFor(upstream.url), { main })
            upstream.answer(SHORT)
            await cpuOf(subject, 1, () => ({ prompt: 'to be repeated' }))
            await fillLedger(subject, count)
            return subject
          },
          (of) => ({
            'miss, JSON': async (count, round) => {
              upstream.answer(SHORT)
              return await cpuOf(of(count), 60, (i) => ({ prompt: `crowd ${round} ${i}` }))
            },
            'first miss after the ledger starts': async (count, round) => {
              upstream.answer(SHORT)
              await fillLedger(of(count), 0)
              return await cpuOf(of(count), 1, () => ({ prompt: `woken ${round}` }))
            },
          }),
        ),
    },
    {
      title: 'entries in memory',
      sizes: entries,
      begin: () =>
        beginEach(
          entries,
          async (count) => {
            // Entries stay in memory for the whole run, and filling it needs no flight objects.
            const cache = { memory_seconds: 86_400, memory_bytes: 67_108_864, flights: 'none' }
            const subject = await ours(configFor(upstream.url, { cache }))
            upstream.answer(SHORT)
            await cpuOf(subject, count, (i) => ({ prompt: `entry ${i}` }))
            return subject
          },
          (of) => ({
            'memory hit': async (count) => {
              upstream.answer(SHORT)
              const subject = of(count)
              const entry = (i: number) => ({ prompt: `entry ${(i * 7919) % count}` })
              for (let i = 0; i < 50; i++) {
                const { headers } = await ask(subject.url, subject.sent(entry(i)))
                if (!String(headers['cache-status']).includes('detail=memory'))
                  throw new Error(`${count} entries are not in memory`)
              }
              return await cpuOf(subject, 2000, entry, true)
            },
          }),
        ),
    },
  ]
}

/** @param failed called for a size that could not be measured, whose figure is NaN */
export async function growthOf(
  { title, sizes, begin }: Axis,
  rounds: number,
  failed: (what: string, error: unknown) => void,
): Promise<Growth> {
  const { curves, subjects } = await begin()
  try {
    const measured: Curve[] = []
    for (const [name, measure] of Object.entries(curves)) {
      const failedSizes = new Set<number>()
      const values = await inRounds(sizes, rounds, async (size, round) => {
        if (failedSizes.has(size)) return Number.NaN
        try {
          return await measure(size, round)
        } catch (error) {
          failedSizes.add(size)
          failed(`${name} by ${title}, ${size}`, error)
          return Number.NaN
        }
      })
      measured.push({ name, us: values.map(figureOf) })
    }
    return { title, sizes, curves: measured }
  } finally {
    for (const subject of subjects) await subject.stop()
  }
}

/** The exponent k with which the cost of the larger sizes grows, as size^k. Ignores failed sizes. */
export function exponentOf(sizes: readonly number[], us: readonly Figure[]): number {
  const known = us.flatMap(({ median }, i) =>
    median > 0 ? [[sizes[i] ?? 1, median] as const] : [],
  )
  const [size = 1, cost = 1] = known[Math.floor((known.length - 1) / 2)] ?? []
  const [largest = 1, most = 1] = known.at(-1) ?? []
  return Math.log(most / cost) / Math.log(largest / size)
}

/** A prompt of exactly this many bytes that begins with the name. */
const promptOf = (name: string, bytes: number) =>
  `${name} ${'the quick brown fox '.repeat(Math.ceil(bytes / 20))}`.slice(0, bytes)

/** Adds visitors to the ledger, or restarts it if 0 (bench/crowded-ledger.js). */
async function fillLedger(subject: Subject, visitors: number): Promise<void> {
  const reply = await fetch(subject.url, { method: 'PUT', body: String(visitors) })
  if (!reply.ok) throw new Error(`${visitors} visitors: ${reply.status} ${await reply.text()}`)
}
