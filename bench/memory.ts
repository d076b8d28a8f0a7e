// The memory use of our Worker: its live heap with many waiting requests, with readers that never read,
// and under continuous traffic.
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
/** `kv_wait_ms` is long enough that thousands of concurrent KV reads do not time out. */
const SETTINGS = { cache: { kv_wait_ms: 60_000, memory_bytes: MEMORY_BYTES } }

const READERS = 1000
const NEVER_READ = 100
/** 6 MB of text, more than the 4 MB that the kernel buffers for a connection that is never read. */
const LONG = { events: 1500, chars: 4000 }
/** In the simulator a miss in flight takes four file descriptors, of which many machines allow 20,000. */
const MISSES = 4500
const SHORT = { events: 1, chars: 100 }

/** A figure in MB, with an optional maximum. */
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

/** Runs `work` on our Worker with its inspector open. */
async function inspected(
  upstream: BenchUpstream,
  work: (subject: Subject, idleMb: number) => Promise<Row[]>,
): Promise<Row[]> {
  const subject = await ours(configFor(upstream.url, SETTINGS), { inspected: true })
  try {
    return await work(subject, await heapMb(subject))
  } finally {
    await subject.stop()
  }
}

/** 1,000 readers of one long answer, of which a tenth never read. */
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
      row(`live heap per reader, with ${READERS} waiting readers`, (waiting - idle) / READERS),
      row(
        `live heap above idle, with ${NEVER_READ} of ${READERS} readers not reading 6 MB (limit: max_output_bytes + memory_bytes)`,
        unread - idle,
        (MAX_OUTPUT_BYTES + MEMORY_BYTES) / MB,
      ),
      row('resident memory in that state', residentMb),
      row(
        'live heap above idle after all readers have left (limit: memory_bytes)',
        after - idle,
        MEMORY_BYTES / MB,
      ),
    ]
  })
}

/** 4,500 concurrent misses of different prompts. */
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
      row(`live heap per miss, with ${MISSES} misses in flight`, (flying - idle) / MISSES),
      row(
        'live heap above idle after all misses have finished (limit: memory_bytes)',
        after - idle,
        MEMORY_BYTES / MB,
      ),
    ]
  })
}

/** Fills the memory cache, then sends hits in both shapes with 1 % misses. */
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
        'live heap above idle after caching 12 MB of answers (limit: 1.5 × memory_bytes)',
        full - idle,
        (1.5 * MEMORY_BYTES) / MB,
      ),
      row(`growth of that heap over ${requests} more requests, 1 % misses`, after - full, 2),
    ]
  })
}

/** Sends a request and never reads the answer. */
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
