// `npm run bench`: ours against the floors, on the same workerd, in alternating short rounds. What
// counts is the CPU time of the workerd process for each request, as a ratio; medians of the rounds.
// Absolute figures are shown and must not be compared between runs. `--quick`: fewer rounds.
import { readFileSync, writeFileSync } from 'node:fs'
import { cpus } from 'node:os'
import { gzipSync } from 'node:zlib'
import { chart } from './chart.ts'
import { ask, load, median } from './load.ts'
import { floor, ours, type Subject } from './subjects.ts'
import { startUpstream } from './upstream.ts'

const quick = process.argv.includes('--quick')
const ROUNDS = quick ? 3 : 9
const upstream = await startUpstream()

interface Row {
  readonly what: string
  readonly ours: number
  readonly floor: number
  readonly ratio: number
  readonly target: number | null
  readonly note: string
}
const rows: Row[] = []

const config = (more: Record<string, unknown> = {}) => ({
  models: [{ id: 'default', upstream: 'bench', upstream_model: 'm' }],
  upstreams: [{ name: 'bench', base_url: upstream.url }],
  limits: { body_bytes: 65_536, prompt_chars: 60_000, max_tokens: 100_000 },
  budget: {
    tokens_per_day: 9_000_000_000_000,
    tokens_per_visitor_per_day: 9_000_000_000,
    streams_per_visitor: 10_000,
  },
  ...more,
})

interface Side {
  readonly subject: Subject
  readonly body: (i: number) => string
  readonly oneVisitor?: boolean
}

/** CPU per request of both sides, in alternating rounds. */
async function compare(
  what: string,
  target: number | null,
  requests: number,
  a: Side,
  b: Side,
  atOnce = 8,
): Promise<void> {
  const used: [number[], number[]] = [[], []]
  const firsts: [number[], number[]] = [[], []]
  const ratios: number[] = []
  let serial = 0
  for (let round = -1; round < ROUNDS; round++) {
    const perRequest: number[] = []
    for (const [side, { subject, body, oneVisitor = false }] of [a, b].entries()) {
      const from = serial
      serial += requests
      const before = subject.cpuMs()
      const { statuses, samples, firstByteMs } = await load({
        url: subject.url,
        requests,
        atOnce,
        body: (i) => body(from + i),
        oneVisitor,
      })
      if (statuses.get(200) !== requests) {
        throw new Error(`${what}: ${JSON.stringify([...statuses])} ${samples[0]?.slice(0, 300)}`)
      }
      const us = ((subject.cpuMs() - before) * 1000) / requests
      perRequest.push(us)
      // The first round warms up.
      if (round < 0) continue
      used[side as 0 | 1].push(us)
      firsts[side as 0 | 1].push(firstByteMs)
    }
    if (round >= 0) ratios.push((perRequest[0] ?? 0) / (perRequest[1] ?? 1))
  }
  const first = median(firsts[0]) - median(firsts[1])
  add({
    what,
    ours: median(used[0]),
    floor: median(used[1]),
    ratio: median(ratios),
    target,
    note: `first byte ${first >= 0 ? '+' : ''}${first.toFixed(2)} ms`,
  })
}

function add(row: Row): void {
  rows.push(row)
  const { what, ours, floor, ratio, target, note } = row
  const verdict = target === null ? '' : ratio <= target ? 'ok' : 'ABOVE'
  console.log(
    `${what.padEnd(34)} ${ours.toFixed(0).padStart(7)} µs ${floor.toFixed(0).padStart(7)} µs  ${ratio.toFixed(2)} × ${target === null ? '' : `(≤ ${target})`} ${verdict}  ${note}`,
  )
}

const json = (prompt: string, more: object = {}) => JSON.stringify({ prompt, ...more })

/** A memory hit in one form, of an answer with so many characters. */
async function memoryHit(what: string, chars: number, more: object, target: number) {
  upstream.answer({ chunks: 1, chars })
  const subject = await ours(config())
  const body = json('Say this is a test', more)
  const { text, headers } = await ask(subject.url, body)
  const again = await ask(subject.url, body)
  const hit = again.text === '' ? text : again.text
  const rival = await floor('hit', { ANSWER: hit, TYPE: String(headers['content-type']) })
  await compare(
    what,
    target,
    quick ? 2000 : 5000,
    { subject, body: () => body, oneVisitor: true },
    { subject: rival, body: () => body },
  )
  await Promise.all([subject.stop(), rival.stop()])
}

async function kvHit() {
  upstream.answer({ chunks: 1, chars: 100 })
  // Without a memory tier every hit is what the first one of a fresh isolate is.
  const subject = await ours(config({ cache: { memory_bytes: 0 } }))
  const body = json('Say this is a test')
  const { text } = await ask(subject.url, body)
  const rival = await floor('kv-hit', { TYPE: 'application/json' })
  const kv = await subject.miniflare.getKVNamespace('CACHE', 'ours-0')
  const [stored] = (await kv.list({ prefix: 'c1:' })).keys
  const value = stored === undefined ? text : ((await kv.get(stored.name, 'text')) ?? text)
  await (await rival.miniflare.getKVNamespace('CACHE', 'kv-hit')).put('answer', value)
  await compare(
    'KV hit, JSON 300 B',
    1.25,
    quick ? 1000 : 2000,
    { subject, body: () => body, oneVisitor: true },
    { subject: rival, body: () => body },
  )
  await Promise.all([subject.stop(), rival.stop()])
}

async function misses() {
  const subject = await ours(config())
  const rival = await floor('miss', { UPSTREAM: `${upstream.url}/chat/completions` })
  const sides = (more: object): [Side, Side] => [
    { subject, body: (i) => json(`prompt ${i}`, more) },
    { subject: rival, body: (i) => json(`prompt ${i}`, more) },
  ]
  upstream.answer({ chunks: 1, chars: 100 })
  await compare('miss, JSON', 1.2, quick ? 100 : 200, ...sides({ seed: 1 }))
  upstream.answer({ chunks: 64, chars: 5 })
  await compare('stream miss, 64 chunks', 1, quick ? 60 : 100, ...sides({ stream: true, seed: 2 }))
  upstream.answer({ chunks: 500, chars: 5 })
  await compare('stream miss, 500 chunks', 1, quick ? 30 : 40, ...sides({ stream: true, seed: 3 }))
  await Promise.all([subject.stop(), rival.stop()])
}

/** Readers of one flight, each compared with the same answer as a remembered event stream. */
async function followers() {
  const subject = await ours(config())
  const readers = quick ? 100 : 300
  const ratios: number[] = []
  const used: [number[], number[]] = [[], []]
  for (let round = -1; round < ROUNDS; round++) {
    let land = () => {}
    const held = new Promise<void>((resolve) => {
      land = resolve
    })
    upstream.answer({ chunks: 8, chars: 100, held })
    const body = json(`follow ${round}`, { stream: true })
    const called = upstream.calls()
    const before = subject.cpuMs()
    const flying = Array.from({ length: readers }, () => ask(subject.url, body))
    while (upstream.calls() === called) await new Promise((resolve) => setTimeout(resolve, 5))
    // All have joined when the object has nothing more to do.
    for (let last = -1; last !== Math.round(subject.cpuMs()); ) {
      last = Math.round(subject.cpuMs())
      await new Promise((resolve) => setTimeout(resolve, 50))
    }
    land()
    await Promise.all(flying)
    const flown = ((subject.cpuMs() - before) * 1000) / readers
    const then = subject.cpuMs()
    await load({ url: subject.url, requests: readers, atOnce: readers, body: () => body })
    const hit = ((subject.cpuMs() - then) * 1000) / readers
    if (round < 0) continue
    used[0].push(flown)
    used[1].push(hit)
    ratios.push(flown / hit)
  }
  add({
    what: 'a follower of a flight',
    ours: median(used[0]),
    floor: median(used[1]),
    ratio: median(ratios),
    target: 1.2,
    note: `floor: the same as a memory hit, ${readers} readers`,
  })
  await subject.stop()
}

async function thousand() {
  const subject = await ours(config(), 3)
  let land = () => {}
  const held = new Promise<void>((resolve) => {
    land = resolve
  })
  upstream.answer({ chunks: 8, chars: 100, held })
  const before = upstream.calls()
  const asking = Array.from({ length: 1000 }, (_, i) =>
    ask(subject.urls[i % 3] ?? subject.url, json('a thousand', { stream: i % 2 === 0 })),
  )
  setTimeout(land, 1500)
  const replies = await Promise.all(asking)
  const texts = new Set(
    replies.map(({ text, headers }) =>
      String(headers['content-type']).startsWith('text/event-stream')
        ? text
            .split('\n\n')
            .filter((event) => event.startsWith('data: {'))
            .map((event) => JSON.parse(event.slice(6)).choices[0]?.text ?? '')
            .join('')
        : JSON.parse(text).choices[0].text,
    ),
  )
  console.log(
    `1,000 identical at once, 3 isolates: ${upstream.calls() - before} upstream call(s), ${texts.size} different text(s)`,
  )
  await subject.stop()
  return { calls: upstream.calls() - before, texts: texts.size }
}

async function startup() {
  const cost = async (begin: () => Promise<Subject>) => {
    const subject = await begin()
    await fetch(new URL('/health', subject.url)).then((response) => response.text())
    const ms = subject.cpuMs()
    const bytes = subject.memoryBytes()
    await subject.stop()
    return { ms, bytes }
  }
  const times: [number[], number[]] = [[], []]
  for (let round = 0; round < (quick ? 3 : 7); round++) {
    times[0].push((await cost(() => ours(config()))).ms)
    times[1].push((await cost(() => floor('empty'))).ms)
  }
  const extra = median(times[0]) - median(times[1])
  console.log(`start-up: ${extra.toFixed(1)} ms CPU over the empty Worker (≤ 15)`)
  return extra
}

/** Two hundred thousand mixed requests with a full memory tier, against the empty Worker. */
async function memory() {
  const requests = quick ? 20_000 : 200_000
  const empty = await floor('empty')
  await load({ url: empty.url, requests: 2000, atOnce: 8, body: () => '{}' })
  const floorBytes = empty.memoryBytes()
  await empty.stop()
  const subject = await ours(config())
  upstream.answer({ chunks: 1, chars: 4000 })
  const body = (i: number) =>
    i % 100 === 0 ? json(`mixed ${i}`) : json(`mixed ${(i % 5) * 100}`, { stream: i % 2 === 0 })
  const seen: number[] = []
  for (let done = 0; done < requests; done += requests / 10) {
    await load({
      url: subject.url,
      requests: requests / 10,
      atOnce: 8,
      body: (i) => body(done + i),
    })
    seen.push((subject.memoryBytes() - floorBytes) / 1048576)
  }
  await subject.stop()
  console.log(
    `memory over the empty Worker, each tenth of ${requests} requests: ${seen.map((mb) => mb.toFixed(0)).join(' ')} MB (≤ 40)`,
  )
  return seen
}

await memoryHit('memory hit, JSON 300 B', 100, {}, 1.25)
await memoryHit('memory hit, JSON 8 KB', 8000, {}, 1.4)
await memoryHit('memory hit, SSE 8 KB', 8000, { stream: true }, 1.4)
await kvHit()
await misses()
await followers()
const thousands = await thousand()
const startupMs = await startup()
const bundleKib = gzipSync(readFileSync('dist/worker.js'), { level: 9 }).length / 1024
console.log(`bundle: ${bundleKib.toFixed(1)} KiB gzipped (≤ 60)`)
const memoryMb = await memory()
await upstream.stop()

if (!quick) report()

function report(): void {
  const versions = `workerd ${version('workerd')}, node ${process.version}`
  const table = [
    '| what | ours | floor | ratio | target |',
    '|---|---|---|---|---|',
    ...rows.map(
      ({ what, ours, floor, ratio, target, note }) =>
        `| ${what} | ${ours.toFixed(0)} µs | ${floor.toFixed(0)} µs | **${ratio.toFixed(2)} ×** | ${target === null ? '–' : `≤ ${target} ×`}${note.startsWith('first') ? `; ${note}` : ''} |`,
    ),
    `| 1,000 identical at once, JSON and streams, 3 isolates | ${thousands.calls} upstream call, ${thousands.texts} text | – | – | exactly 1 |`,
    `| start-up over the empty Worker | ${startupMs.toFixed(1)} ms CPU | – | – | ≤ 15 ms |`,
    `| bundle, gzipped | ${bundleKib.toFixed(1)} KiB | – | – | ≤ 60 KiB |`,
    `| memory over the empty Worker after 200,000 requests | ${(memoryMb.at(-1) ?? 0).toFixed(0)} MB (after 20,000: ${(memoryMb[0] ?? 0).toFixed(0)}) | – | – | ≤ 40 MB |`,
  ].join('\n')
  const where = `${cpus()[0]?.model.trim()}, ${cpus().length} cores; ${versions}; ${new Date().toISOString().slice(0, 10)}`
  const readme = readFileSync('README.md', 'utf8')
  const block = `<!-- bench -->\n${where}\n\n${table}\n<!-- /bench -->`
  writeFileSync('README.md', readme.replace(/<!-- bench -->[\s\S]*<!-- \/bench -->/, block))
  writeFileSync(
    'docs/bench.svg',
    chart(rows.map(({ what, ratio, target }) => ({ what, ratio, target }))),
  )
}

function version(name: string): string {
  return JSON.parse(readFileSync(`node_modules/${name}/package.json`, 'utf8')).version
}
