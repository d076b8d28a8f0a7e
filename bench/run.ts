// `npm run bench`: ours against the floors, on the same workerd, in alternating short rounds. What
// counts is the CPU time of the workerd process for each request, as a ratio; medians of the rounds.
// Absolute figures are shown and must not be compared between runs. `--quick`: fewer rounds;
// `--only "stream miss"`: what has these words in its name; `--out figures.json`: writes them there;
// `--curve`: how the cost grows, and nothing else. Only whole runs write the README.
import { readFileSync, writeFileSync } from 'node:fs'
import { cpus } from 'node:os'
import { parseArgs } from 'node:util'
import { gzipSync } from 'node:zlib'
import { chart } from './chart.ts'
import { type DutyCost, duties } from './duties.ts'
import { fly } from './flights.ts'
import { type Growth, growth } from './growth.ts'
import { growthChart } from './growth-chart.ts'
import { liveHeaps } from './heap.ts'
import { ask, load, median } from './load.ts'
import { configFor, floor, ours, type Subject } from './subjects.ts'
import { startUpstream } from './upstream.ts'

const { values: options } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    only: { type: 'string' },
    curve: { type: 'boolean', default: false },
    out: { type: 'string' },
  },
})
const { quick, only, curve } = options
const wanted = (what: string) => !curve && (only === undefined || what.includes(only))
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

const config = (more: object = {}) => configFor(upstream.url, more)

interface Side {
  readonly subject: Subject
  readonly body: (i: number) => string
  /** Absent: each request is a new visitor's. */
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
  const busy: [number[], number[]] = [[], []]
  const alone: [number[], number[]] = [[], []]
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
      busy[side as 0 | 1].push(firstByteMs)
      // With several at once the first byte waits for the others' CPU; alone it waits for its own.
      const single = serial
      serial += ALONE
      const one = await load({
        url: subject.url,
        requests: ALONE,
        atOnce: 1,
        body: (i) => body(single + i),
        oneVisitor,
      })
      alone[side as 0 | 1].push(one.firstByteMs)
    }
    if (round >= 0) ratios.push((perRequest[0] ?? 0) / (perRequest[1] ?? 1))
  }
  const later = (firsts: [number[], number[]]) => {
    const ms = median(firsts[0]) - median(firsts[1])
    return `${ms >= 0 ? '+' : ''}${ms.toFixed(2)} ms`
  }
  add({
    what,
    ours: median(used[0]),
    floor: median(used[1]),
    ratio: median(ratios),
    target,
    note: `first byte ${later(alone)}, ${atOnce} at once ${later(busy)}`,
  })
}

/** Requests a round that have the Worker to themselves, for the time to the first byte. */
const ALONE = 15

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
async function memoryHit(
  what: string,
  chars: number,
  more: object,
  target: number | null,
  oneVisitor = true,
) {
  if (!wanted(what)) return
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
    { subject, body: () => body, oneVisitor },
    { subject: rival, body: () => body },
  )
  await Promise.all([subject.stop(), rival.stop()])
}

const HIT_DUTIES = {
  log: 'a line in the log',
  headers: 'the promised headers',
  bound: 'a bound on the time of the body',
}
const MISS_DUTIES = {
  limit: "the visitor's rate limit",
  again: 'KV read once more before money is spent',
  settle: 'the call settled in the ledger',
  log: 'two lines in the log',
}

/** The floor, with one promise at a time, with all of them, and ours. */
async function costs(
  name: 'hit' | 'miss',
  promises: Readonly<Record<string, string>>,
  variables: Readonly<Record<string, string>>,
): Promise<{ readonly name: string; readonly subject: Subject }[]> {
  const all = Object.keys(promises)
  const wanted: [string, string[]][] = [
    ...Object.entries(promises).map(([duty, said]): [string, string[]] => [`+ ${said}`, [duty]]),
    ['the floor with all of them', all],
  ]
  const given = [{ name: 'the floor', subject: await floor(name, variables) }]
  // One after another: a workerd is known by being new.
  for (const [said, some] of wanted) {
    const subject = await floor(`${name}-duties`, { ...variables, DUTIES: some.join(' ') })
    given.push({ name: said, subject })
  }
  return [...given, { name: 'ours', subject: await ours(config()) }]
}

async function hitDuties(): Promise<DutyCost[]> {
  upstream.answer({ chunks: 1, chars: 100 })
  const body = json('Say this is a test')
  const asked = await ours(config())
  const { text } = await ask(asked.url, body)
  await asked.stop()
  const given = await costs('hit', HIT_DUTIES, { ANSWER: text, TYPE: 'application/json' })
  const requests = quick ? 500 : 1000
  const rounds = 2 * ROUNDS + 3
  return await duties(given, { rounds, requests, body: () => body, oneVisitor: true })
}

async function missDuties(): Promise<DutyCost[]> {
  upstream.answer({ chunks: 1, chars: 100 })
  const given = await costs('miss', MISS_DUTIES, { UPSTREAM: `${upstream.url}/chat/completions` })
  const body = (i: number) => json(`duties ${i}`)
  const options = { rounds: ROUNDS, requests: quick ? 50 : 100, body, oneVisitor: false }
  return await duties(given, options)
}

async function kvHit() {
  const what = 'KV hit, JSON 300 B'
  if (!wanted(what)) return
  upstream.answer({ chunks: 1, chars: 100 })
  // Without a memory tier every hit is what the first one of a fresh isolate is.
  const subject = await ours(config({ cache: { memory_bytes: 0 } }))
  // Said differently each time (`user` is no part of the key): a fresh isolate knows no words, either.
  const body = (i: number) => json('Say this is a test', { user: String(i) })
  const { text } = await ask(subject.url, body(0))
  const rival = await floor('kv-hit', { TYPE: 'application/json' })
  const kv = await subject.miniflare.getKVNamespace('CACHE', 'ours-0')
  const [stored] = (await kv.list({ prefix: 'c1:' })).keys
  const value = stored === undefined ? text : ((await kv.get(stored.name, 'text')) ?? text)
  await (await rival.miniflare.getKVNamespace('CACHE', 'kv-hit')).put('answer', value)
  await compare(
    what,
    1.25,
    quick ? 1000 : 2000,
    { subject, body, oneVisitor: true },
    { subject: rival, body },
  )
  await Promise.all([subject.stop(), rival.stop()])
}

const missKinds = [
  {
    what: 'miss, JSON',
    target: 1.2,
    requests: quick ? 100 : 200,
    answer: { chunks: 1, chars: 100 },
  },
  {
    what: 'stream miss, 64 chunks',
    target: 1,
    requests: quick ? 60 : 100,
    answer: { chunks: 64, chars: 5 },
  },
  {
    what: 'stream miss, 500 chunks',
    target: 1,
    requests: quick ? 30 : 40,
    answer: { chunks: 500, chars: 5 },
  },
  // Nothing arrives together here, so nothing can leave together.
  {
    what: 'stream miss, 64 chunks 5 ms apart',
    target: null,
    requests: quick ? 16 : 40,
    answer: { chunks: 64, chars: 5, paceMs: 5 },
  },
]

async function misses() {
  const kinds = missKinds.filter(({ what }) => wanted(what))
  if (kinds.length === 0) return
  const subject = await ours(config())
  const rival = await floor('miss', { UPSTREAM: `${upstream.url}/chat/completions` })
  for (const { what, target, requests, answer } of kinds) {
    upstream.answer(answer)
    const more = what.startsWith('stream') ? { stream: true } : {}
    const body = (i: number) => json(`${what} ${i}`, more)
    await compare(what, target, requests, { subject, body }, { subject: rival, body })
  }
  await Promise.all([subject.stop(), rival.stop()])
}

/** Readers of one flight, each compared with the same answer as a remembered event stream. */
async function followers() {
  const what = 'a follower of a flight'
  if (!wanted(what)) return
  const subject = await ours(config())
  const readers = quick ? 100 : 300
  const ratios: number[] = []
  const used: [number[], number[]] = [[], []]
  const hits = { url: subject.url, requests: readers, atOnce: readers }
  let stream = ''
  for (let round = -1; round < ROUNDS; round++) {
    const body = json(`follow ${round}`, { stream: true })
    const flown = ((await fly(subject, upstream, body, readers)) * 1000) / readers
    const then = subject.cpuMs()
    const { samples } = await load({ ...hits, body: () => body })
    const hit = ((subject.cpuMs() - then) * 1000) / readers
    stream = samples[0] ?? ''
    if (round < 0) continue
    used[0].push(flown)
    used[1].push(hit)
    ratios.push(flown / hit)
  }
  await subject.stop()
  // The same beside the smallest Worker that has this answer at hand.
  const smallest = await floor('hit', { ANSWER: stream, TYPE: 'text/event-stream' })
  const least: number[] = []
  for (let round = -1; round < ROUNDS; round++) {
    const then = smallest.cpuMs()
    await load({ ...hits, url: smallest.url, body: () => json('follow', { stream: true }) })
    if (round >= 0) least.push(((smallest.cpuMs() - then) * 1000) / readers)
  }
  await smallest.stop()
  const ratioToSmallest = median(used[0]) / median(least)
  add({
    what,
    ours: median(used[0]),
    floor: median(used[1]),
    ratio: median(ratios),
    target: 1.2,
    note: `floor: our own memory hit as SSE, ${readers} readers; beside the smallest Worker's ${ratioToSmallest.toFixed(2)} ×`,
  })
}

async function thousand() {
  const subject = await ours(config(), { isolates: 3 })
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
  for (let round = 0; round < (quick ? 5 : 21); round++) {
    times[0].push((await cost(() => ours(config()))).ms)
    times[1].push((await cost(() => floor('empty'))).ms)
  }
  const extra = median(times[0]) - median(times[1])
  console.log(`start-up: ${extra.toFixed(1)} ms CPU over the empty Worker (≤ 15)`)
  return extra
}

interface Memory {
  /** Resident, in MB, at each tenth of the requests. */
  readonly hits: readonly number[]
  readonly empty: readonly number[]
  readonly mixed: readonly number[]
  readonly mixedFloor: readonly number[]
  /** Our isolate's heap after a forced collection, in MB, at each tenth of half as many. */
  readonly live: readonly number[]
}

/**
 * Hits with a full memory tier, beside the empty Worker after as many requests: V8 collects late
 * while memory is free, in the empty Worker, too. Then a mix with 1 % misses, beside the miss floor:
 * the simulator's databases of flights and KV are in the same process. What is kept for good is seen
 * in the heap after a forced collection.
 */
async function memory(): Promise<Memory> {
  const requests = quick ? 20_000 : 200_000
  upstream.answer({ chunks: 1, chars: 4000 })
  const hit = (i: number) => json(`kept ${i % 100}`)
  const mixed = (i: number) =>
    i % 100 === 0 ? json(`mixed ${i}`) : json(`mixed ${(i % 5) * 100}`, { stream: i % 2 === 0 })
  const tenths = async (
    { url }: Subject,
    total: number,
    body: (i: number) => string,
    measure: () => number | Promise<number>,
  ) => {
    const seen: number[] = []
    for (let done = 0; done < total; done += total / 10) {
      const from = done
      await load({ url, requests: total / 10, atOnce: 8, body: (i) => body(from + i) })
      seen.push((await measure()) / 1_048_576)
    }
    return seen
  }
  const resident = async (subject: Subject, body: (i: number) => string) => {
    const seen = await tenths(subject, requests, body, () => subject.memoryBytes())
    await subject.stop()
    return seen
  }
  // Without flights no database of the simulator's is opened for the answers that fill the tier.
  const full = await ours(config({ cache: { flights: 'none' } }))
  await load({ url: full.url, requests: 500, atOnce: 8, body: (i) => json(`kept ${i}`) })
  const hits = await resident(full, hit)
  const empty = await resident(await floor('empty'), hit)
  const rival = { UPSTREAM: `${upstream.url}/chat/completions` }
  const mixedOurs = await resident(await ours(config()), mixed)
  const mixedFloor = await resident(await floor('miss', rival), mixed)
  const inspected = await ours(config(), { inspected: true })
  const live = await tenths(inspected, requests / 2, mixed, async () => {
    const heaps = await liveHeaps(inspected.miniflare)
    return heaps.get('ours-0') ?? Number.NaN
  })
  await inspected.stop()
  const told = (mb: readonly number[]) => mb.map((n) => n.toFixed(0)).join(' ')
  console.log(`resident memory (MB), each tenth of ${requests} requests`)
  console.log(
    `  hits, full memory tier: ${told(hits)}; the empty Worker: ${told(empty)} (≤ 40 over)`,
  )
  console.log(`  mixed, 1 % misses: ${told(mixedOurs)}; the miss floor: ${told(mixedFloor)}`)
  console.log(`  live heap of ours, each tenth of ${requests / 2} mixed: ${told(live)}`)
  return { hits, empty, mixed: mixedOurs, mixedFloor, live }
}

await memoryHit('memory hit, JSON 300 B', 100, {}, 1.25)
await memoryHit('memory hit, JSON 8 KB', 8000, {}, 1.4)
await memoryHit('memory hit, SSE 8 KB', 8000, { stream: true }, 1.4)
// Its address is hashed anew: no visitor is remembered.
await memoryHit('memory hit, each a new visitor', 100, {}, null, false)
await kvHit()
await misses()
await followers()
const thousands = wanted('thousand') ? await thousand() : null
const startupMs = wanted('start-up') ? await startup() : null
const bundleKib = gzipSync(readFileSync('dist/worker.js'), { level: 9 }).length / 1024
if (wanted('bundle')) console.log(`bundle: ${bundleKib.toFixed(1)} KiB gzipped (≤ 60)`)
const memoryMb = wanted('resident memory') ? await memory() : null
const dutiesOf = wanted('duties') ? { hit: await hitDuties(), miss: await missDuties() } : null
if (dutiesOf !== null) console.log(dutiesTable(dutiesOf))
const growths = curve || wanted('growth') ? await growth(upstream, quick) : null
if (growths !== null) console.log(growthTable(growths))
await upstream.stop()

if (options.out !== undefined) {
  const figures = { rows, thousands, startupMs, bundleKib, memoryMb, dutiesOf, growths }
  writeFileSync(options.out, `${JSON.stringify(figures, null, 2)}\n`)
}
const whole = !quick && only === undefined
if (whole && thousands !== null && startupMs !== null && memoryMb !== null) {
  report(thousands, startupMs, memoryMb)
}
if (whole && dutiesOf !== null) rewrite('duties', dutiesTable(dutiesOf))
if (whole && growths !== null) {
  rewrite('growth', `${where()}\n\n${growthTable(growths)}`)
  writeFileSync('docs/bench-growth.svg', growthChart(growths))
}

function dutiesTable(of: Readonly<Record<'hit' | 'miss', readonly DutyCost[]>>): string {
  const table = (what: string, costs: readonly DutyCost[]) =>
    [
      `| ${what} | CPU | of the floor |`,
      '|---|---|---|',
      ...costs.map(({ name, us, ratio }) => `| ${name} | ${time(us)} | ${ratio.toFixed(2)} × |`),
    ].join('\n')
  return [table('memory hit, JSON 300 B', of.hit), table('miss, JSON', of.miss)].join('\n\n')
}

function growthTable(panels: readonly Growth[]): string {
  return panels
    .map(({ title, sizes, curves }) =>
      [
        `| ${title} | ${sizes.map((size) => size.toLocaleString('en')).join(' | ')} |`,
        `|---|${'---|'.repeat(sizes.length)}`,
        ...curves.map(({ name, us }) => `| ${name} | ${us.map(time).join(' | ')} |`),
      ].join('\n'),
    )
    .join('\n\n')
}

function time(us: number): string {
  return us < 9950 ? `${us.toFixed(0)} µs` : `${(us / 1000).toFixed(us < 99_500 ? 1 : 0)} ms`
}

/** What stands between a pair of markers in the README. */
function rewrite(name: string, text: string): void {
  const between = new RegExp(`<!-- ${name} -->[\\s\\S]*<!-- /${name} -->`)
  const readme = readFileSync('README.md', 'utf8')
  writeFileSync(
    'README.md',
    readme.replace(between, () => `<!-- ${name} -->\n${text}\n<!-- /${name} -->`),
  )
}

function report(
  thousands: { readonly calls: number; readonly texts: number },
  startupMs: number,
  memoryMb: Memory,
): void {
  const table = [
    '| what | ours | floor | ratio | target |',
    '|---|---|---|---|---|',
    ...rows.map(
      ({ what, ours, floor, ratio, target, note }) =>
        `| ${what} | ${ours.toFixed(0)} µs | ${floor.toFixed(0)} µs | **${ratio.toFixed(2)} ×** | ${target === null ? '–' : `≤ ${target} ×`}; ${note} |`,
    ),
    `| 1,000 identical at once, JSON and streams, 3 isolates | ${thousands.calls} upstream call, ${thousands.texts} text | – | – | exactly 1 |`,
    `| start-up over the empty Worker | ${startupMs.toFixed(1)} ms CPU | – | – | ≤ 15 ms |`,
    `| bundle, gzipped | ${bundleKib.toFixed(1)} KiB | – | – | ≤ 60 KiB |`,
    `| resident memory after 200,000 hits, full memory tier, over the empty Worker after as many | ${(last(memoryMb.hits) - last(memoryMb.empty)).toFixed(0)} MB (both from ${(memoryMb.hits[0] ?? 0).toFixed(0)} and ${(memoryMb.empty[0] ?? 0).toFixed(0)} to ${last(memoryMb.hits).toFixed(0)} and ${last(memoryMb.empty).toFixed(0)}) | – | – | ≤ 40 MB |`,
    `| resident memory after 200,000 mixed requests, 1 % misses | ${last(memoryMb.mixed).toFixed(0)} MB | ${last(memoryMb.mixedFloor).toFixed(0)} MB | **${(last(memoryMb.mixed) / last(memoryMb.mixedFloor)).toFixed(2)} ×** | – |`,
    `| live heap in that mix, after 10,000 and 100,000 | ${(memoryMb.live[0] ?? 0).toFixed(1)} and ${last(memoryMb.live).toFixed(1)} MB | – | – | flat |`,
  ].join('\n')
  rewrite('bench', `${where()}\n\n${table}`)
  writeFileSync(
    'docs/bench.svg',
    chart(rows.map(({ what, ratio, target }) => ({ what, ratio, target }))),
  )
}

function last(values: readonly number[]): number {
  return values.at(-1) ?? Number.NaN
}

/** The machine, the versions, the day. */
function where(): string {
  const versions = `workerd ${version('workerd')}, node ${process.version}`
  const machine = `${cpus()[0]?.model.trim()}, ${cpus().length} cores`
  return `${machine}; ${versions}; ${new Date().toISOString().slice(0, 10)}`
}

function version(name: string): string {
  return JSON.parse(readFileSync(`node_modules/${name}/package.json`, 'utf8')).version
}
