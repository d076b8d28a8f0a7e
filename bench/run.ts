// `npm run bench`: compares the built Worker with the smallest Workers that do the same job (bench/floors/),
// each in its own workerd, in alternating rounds. The figure is CPU time of workerd per request, as a
// ratio. Absolute figures are not comparable between machines.
//   --only "stream miss"    only scenarios with these words in their name
//   --quick                 fewer rounds and requests
//   --peer DIR              also measure another gateway (bench/subjects.ts, `peerIn`); repeatable
//   --before DIR            also measure an earlier checkout, which must be built
//   --out figures.json      write all figures to a file
// A full run updates docs/performance.md and its charts. Failed measurements are listed there and make
// the exit code non-zero; missed targets do not.
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { bundleOf, gzippedKib } from '../scripts/bundle-size.ts'
import { fly, readers } from './flights.ts'
import { axesOf, type Growth, growthOf } from './growth.ts'
import { ask, judge, textOf } from './load.ts'
import { figureOf, inRounds } from './measure.ts'
import { crowd, misses, traffic } from './memory.ts'
import { BEFORE, type Course, compare, newName, rowsOf, withSides } from './race.ts'
import { growthTable, lineOf, type Row, where, write } from './report.ts'
import { type Scenario, scenarios } from './scenarios.ts'
import { configFor, floor, ours, peerIn, type Subject } from './subjects.ts'
import { startUpstream } from './upstream.ts'

const { values: options } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    only: { type: 'string' },
    peer: { type: 'string', multiple: true, default: [] },
    before: { type: 'string' },
    out: { type: 'string' },
  },
})
const { quick, only, before } = options
const upstream = await startUpstream()
const peers = options.peer.map(peerIn)
const rounds = quick ? 3 : 9
const course: Course = { upstream, quick, rounds, peers, before }
const config = configFor(upstream.url)

/** The time from a request to the first text, minus that of a direct request to the upstream. */
function firstText(): Promise<Row[]> {
  upstream.answer({ events: 16, chars: 5, paceMs: 2 })
  const { rivals } = scenarios.find(({ what }) => what.startsWith('stream miss')) as Scenario
  const floors = rivals.map(({ target, ...rival }) => rival)
  return withSides(course, { rivals: floors, peers: {} }, async (sides) => {
    const [own] = sides
    const direct = { url: new URL(upstream.url), sent: own?.subject.sent as Subject['sent'] }
    const all = [{ subject: direct, chat: false }, ...sides]
    const values = await inRounds(all, rounds, async ({ subject: { url, sent }, chat }) => {
      const ms: number[] = []
      for (let i = 0; i < 10; i++) {
        const question = { prompt: `first text ${newName()}`, stream: true, chat }
        const reply = await ask(url, sent(question))
        judge(reply, upstream.text())
        ms.push(reply.firstTextMs)
      }
      return figureOf(ms).median
    })
    const [alone = [], ...through] = values
    const added = through.map((ms) => ms.map((value, round) => value - (alone[round] ?? 0)))
    const rows = rowsOf('first text of a stream, added', 'ms', sides, added)
    return rows.map((row, i) => (i === 0 ? { ...row, target: { most: 4.5 } } : row))
  })
}

/** CPU time per reader, with many readers of one answer. */
function follower(
  what: string,
  count: number,
  stream: boolean,
  paceMs: number | undefined,
  most?: number,
) {
  const answer = { events: 64, chars: 5, ...(paceMs === undefined ? {} : { paceMs }) }
  const run = () =>
    withSides(course, {}, async (sides) => {
      const values = await inRounds(sides, rounds, ({ subject }) => {
        const question = { prompt: `${what} ${newName()}`, stream }
        return fly(subject, upstream, { questions: readers(count, question), answer })
      })
      const rows = rowsOf(what, 'µs', sides, values)
      return most === undefined ? rows : rows.map((row) => ({ ...row, target: { most } }))
    })
  return { what, run }
}

/** 1,000 identical requests to three isolates, in both shapes. */
async function thousand(): Promise<Row[]> {
  const subject = await ours(config, { isolates: 3 })
  const { promise: held, resolve: go } = Promise.withResolvers<void>()
  upstream.answer({ events: 8, chars: 100, held: () => held })
  const calls = upstream.calls()
  const asking = Array.from({ length: 1000 }, (_, i) => {
    const sent = subject.sent({ prompt: 'a thousand', stream: i % 2 === 0 })
    return ask(subject.urls[i % 3] ?? subject.url, sent)
  })
  await subject.quiet()
  go()
  const texts = new Set((await Promise.all(asking)).map(({ text }) => textOf(text)))
  await subject.stop()
  if (texts.size !== 1) throw new Error(`${texts.size} different texts`)
  const made = figureOf([upstream.calls() - calls])
  const what = 'upstream calls for 1,000 identical requests at once, JSON and streams, 3 isolates'
  return [{ what, unit: '', ours: made, target: { most: 1 } }]
}

/** CPU time until the first answer, above that of the empty Worker with the same bindings. */
async function startUp(): Promise<Row[]> {
  const starts = [
    () => floor('empty'),
    () => ours(config),
    ...(before === undefined ? [] : [() => ours(config, {}, before)]),
  ]
  const [empty = [], ...values] = await inRounds(starts, quick ? 5 : 21, async (start) => {
    const subject = await start()
    await (await fetch(new URL('/health', subject.url))).text()
    const ms = subject.cpuMs()
    await subject.stop()
    return ms
  })
  const over = values.map((of) => of.map((ms, round) => ms - (empty[round] ?? Number.NaN)))
  const sides = ['ours', BEFORE].slice(0, over.length).map((name) => ({ name, chat: false }))
  const rows = rowsOf(
    'start-up, CPU above an empty Worker with the same bindings',
    'ms',
    sides,
    over,
  )
  return rows.map((row) => ({ ...row, target: { most: 15 } }))
}

/** The size of each gzipped bundle, with what is loaded later. */
async function size(): Promise<Row[]> {
  const kib = (path: string) => {
    const { start, later } = bundleOf(path)
    return [gzippedKib([...start, ...later])]
  }
  const bundles = [
    { name: 'ours', main: 'dist/worker.js' },
    ...(before === undefined ? [] : [{ name: BEFORE, main: join(before, 'dist/worker.js') }]),
    ...peers,
  ]
  const sides = bundles.map(({ name }) => ({ name, chat: false }))
  const rows = rowsOf(
    'bundle, gzipped',
    'KiB',
    sides,
    bundles.map(({ main }) => kib(main)),
  )
  return rows.map((row, i) => (i === 0 ? { ...row, target: { most: 62 } } : row))
}

const jobs: readonly { readonly what: string; readonly run: () => Promise<Row[]> }[] = [
  ...scenarios.map((scenario) => ({ what: scenario.what, run: () => compare(course, scenario) })),
  { what: 'first text', run: firstText },
  follower('follower, JSON, 300 at once', 300, false, undefined, 600),
  follower('follower, stream of 64 events 20 ms apart, 50 at once', 50, true, 20, 2500),
  follower('follower, stream of 64 events in a burst, 300 at once', 300, true, undefined),
  { what: 'thousand', run: thousand },
  { what: 'start-up', run: startUp },
  { what: 'bundle', run: size },
  { what: 'memory of readers', run: () => crowd(upstream) },
  { what: 'memory of misses', run: () => misses(upstream) },
  { what: 'memory of traffic', run: () => traffic(upstream, quick) },
]

const rows: Row[] = []
const growths: Growth[] = []
const failures: string[] = []
const wanted = (what: string) => only === undefined || what.includes(only)

function failed(what: string, error: unknown): void {
  failures.push(`${what}: ${error instanceof Error ? error.message : error}`)
  console.error(`FAILED ${failures.at(-1)}`)
}

async function attempt(what: string, work: () => Promise<void>): Promise<void> {
  if (wanted(what)) await work().catch((error) => failed(what, error))
}

for (const { what, run } of jobs) {
  await attempt(what, async () => {
    for (const row of await run()) {
      rows.push(row)
      console.log(lineOf(row))
    }
  })
}
for (const axis of axesOf(upstream)) {
  await attempt(`growth by ${axis.title}`, async () => {
    const growth = await growthOf(axis, quick ? 1 : 5, failed)
    growths.push(growth)
    console.log(growthTable(growth))
  })
}
await upstream.stop()

const figures = { where: where(), rows, growths, failures }
if (options.out !== undefined) {
  writeFileSync(options.out, `${JSON.stringify(figures, null, 2)}\n`)
}
if (!quick && only === undefined) write(figures)
process.exitCode = failures.length === 0 ? 0 : 1
