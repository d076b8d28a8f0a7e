// What ours holds in memory: its live heap, after a forced collection, with crowds that wait, readers
// that never read, and traffic that goes on.
import net from 'node:net'
import { fly } from './flights.ts'
import { liveHeaps } from './heap.ts'
import { ask, headersOf, load } from './load.ts'
import { figureOf } from './measure.ts'
import type { Row } from './report.ts'
import { configFor, ours, type Sent, type Subject } from './subjects.ts'
import type { BenchUpstream } from './upstream.ts'

const MB = 1_048_576
const MEMORY_BYTES = 8 * MB
const MAX_OUTPUT_BYTES = 16 * MB
/** So that KV, asked by thousands at once, counts as asked. */
const PATIENT = { cache: { kv_wait_ms: 60_000, memory_bytes: MEMORY_BYTES } }

const READERS = 1000
const NEVER_READ = 100
/** 6 MB of text: more than the kernel takes for a connection whose reader never reads (4 MB). */
const LONG = { events: 1500, chars: 4000 }
const MISSES = 5000
const SHORT = { events: 1, chars: 100 }

/** A figure in MB that is to be at most this. */
const row = (what: string, mb: number, most?: number): Row => ({
  what,
  unit: 'MB',
  ours: figureOf([mb]),
  ...(most === undefined ? {} : { target: { most } }),
})

async function heapMb({ miniflare, quiet }: Subject): Promise<number> {
  await quiet()
  return ((await liveHeaps(miniflare)).get('ours-0') ?? Number.NaN) / MB
}

/** Ours with its inspector open, while `work` runs. */
async function inspected(
  upstream: BenchUpstream,
  work: (subject: Subject, idleMb: number) => Promise<Row[]>,
): Promise<Row[]> {
  const subject = await ours(configFor(upstream.url, PATIENT), { inspected: true })
  try {
    return await work(subject, await heapMb(subject))
  } finally {
    await subject.stop()
  }
}

/** 1,000 readers of one long answer, a tenth of which never read. */
export function crowd(upstream: BenchUpstream): Promise<Row[]> {
  return inspected(upstream, async (subject, idle) => {
    const { promise: held, resolve: go } = Promise.withResolvers<void>()
    upstream.answer({ ...LONG, held: () => held })
    const sent = subject.sent({ prompt: 'a long answer', stream: true })
    const stuck = Array.from({ length: NEVER_READ }, () => neverRead(subject.url, sent))
    const reading = Promise.all(
      Array.from({ length: READERS - NEVER_READ }, () =>
        ask(subject.url, sent, { keepText: false }),
      ),
    )
    reading.catch(() => {})
    const waiting = await heapMb(subject)
    go()
    const lengths = new Set((await reading).map(({ bytes }) => bytes))
    if (lengths.size !== 1) throw new Error(`readers got ${[...lengths]} bytes of one answer`)
    const unread = await heapMb(subject)
    const residentMb = subject.memoryBytes() / MB
    for (const socket of stuck) socket.destroy()
    const after = await heapMb(subject)
    return [
      row(`live heap for each of ${READERS} readers who wait`, (waiting - idle) / READERS),
      row(
        `live heap while ${NEVER_READ} of ${READERS} have not read 6 MB, over the idle one; at most max_output_bytes and memory_bytes`,
        unread - idle,
        (MAX_OUTPUT_BYTES + MEMORY_BYTES) / MB,
      ),
      row('resident memory then', residentMb),
      row(
        'live heap when they have gone, over the idle one; at most memory_bytes',
        after - idle,
        MEMORY_BYTES / MB,
      ),
    ]
  })
}

/** 5,000 different misses at once. */
export function misses(upstream: BenchUpstream): Promise<Row[]> {
  return inspected(upstream, async (subject, idle) => {
    let flying = Number.NaN
    await fly(subject, upstream, {
      questions: Array.from({ length: MISSES }, (_, i) => ({ prompt: `different ${i}` })),
      answer: SHORT,
      atOnce: 50,
      underWay: async () => {
        flying = await heapMb(subject)
      },
    })
    const after = await heapMb(subject)
    return [
      row(`live heap for each of ${MISSES} different misses in flight`, (flying - idle) / MISSES),
      row(
        'live heap when they have landed, over the idle one; at most memory_bytes',
        after - idle,
        MEMORY_BYTES / MB,
      ),
    ]
  })
}

/** A full memory, then hits in both shapes with 1 % misses. */
export function traffic(upstream: BenchUpstream, quick: boolean): Promise<Row[]> {
  return inspected(upstream, async (subject, idle) => {
    const requests = quick ? 10_000 : 100_000
    upstream.answer({ events: 1, chars: 4000 })
    const text = upstream.text()
    const fill = (i: number) => ({ prompt: `kept ${i}` })
    await load(subject, { requests: 3000, atOnce: 8, question: fill, text })
    const full = await heapMb(subject)
    const mixed = (i: number) =>
      i % 100 === 0
        ? { prompt: `new ${i}` }
        : { prompt: `kept ${2900 + (i % 100)}`, stream: i % 2 === 0 }
    await load(subject, { requests, atOnce: 8, question: mixed, text })
    const after = await heapMb(subject)
    return [
      row(
        'live heap with 12 MB of answers offered to the memory, over the idle one; at most 1.5 times memory_bytes',
        full - idle,
        (1.5 * MEMORY_BYTES) / MB,
      ),
      row(`growth of it by ${requests} more requests, 1 % misses`, after - full, 2),
    ]
  })
}

/** Asks, and never reads the answer. */
function neverRead({ hostname, port }: URL, sent: Sent): net.Socket {
  const socket = net.connect({ host: hostname, port: Number(port) })
  socket.on('error', () => {})
  socket.write(
    [
      `POST ${sent.path} HTTP/1.1`,
      `host: ${hostname}`,
      ...Object.entries(headersOf(sent)).map(([name, value]) => `${name}: ${value}`),
      '',
      sent.body,
    ].join('\r\n'),
  )
  socket.pause()
  return socket
}
