// Measures our Worker and its rivals in the same rounds.
import { ask, load } from './load.ts'
import { figureOf, inRounds, ratioOf } from './measure.ts'
import type { Row } from './report.ts'
import type { Rival, Scenario } from './scenarios.ts'
import {
  answersChats,
  configFor,
  ours,
  type Peer,
  type Question,
  type Subject,
} from './subjects.ts'
import type { BenchUpstream } from './upstream.ts'

/** The settings of a run. */
export interface Course {
  readonly upstream: BenchUpstream
  readonly quick: boolean
  readonly rounds: number
  /** Other gateways. */
  readonly peers: readonly Peer[]
  /** The folder of an earlier checkout of this repository. */
  readonly before: string | undefined
}

/** One of the Workers measured in the same rounds. The first one is ours. */
export interface Side {
  readonly name: string
  readonly subject: Subject
  readonly target?: number
  /** Whether it is sent chat requests. */
  readonly chat: boolean
}

export interface SidesOptions {
  readonly rivals?: readonly Rival[]
  /** Include other gateways. */
  readonly peers?: { readonly target?: number }
  /** Overrides of the benchmark's CONFIG. */
  readonly config?: object
}

/** Starts our Worker and the others, runs `work`, and stops them. */
export async function withSides<Result>(
  { upstream, peers, before }: Course,
  { rivals = [], peers: gateways, config: more }: SidesOptions,
  work: (sides: readonly Side[]) => Promise<Result>,
): Promise<Result> {
  const config = configFor(upstream.url, more)
  const subject = await ours(config)
  const sides: Side[] = [{ name: 'ours', subject, chat: false }]
  const earlier: Rival[] =
    before === undefined ? [] : [{ name: BEFORE, start: () => ours(config, {}, before) }]
  try {
    // Sequentially, because a workerd is identified as the newest process.
    for (const { start, ...rival } of [...rivals, ...earlier]) {
      sides.push({ ...rival, subject: await start(upstream.url), chat: false })
    }
    if (gateways !== undefined && peers.length > 0) {
      // Other gateways only accept chat requests, so also measure ours with a chat request.
      if (answersChats()) sides.push({ name: AS_CHAT, subject, chat: true })
      for (const { name, start } of peers) {
        sides.push({ name, ...gateways, subject: await start(upstream.url), chat: true })
      }
    }
    return await work(sides)
  } finally {
    for (const one of new Set(sides.map((side) => side.subject))) await one.stop()
  }
}

const AS_CHAT = 'ours, as a chat'
export const BEFORE = 'ours, before'

/** A row for each rival, or one for our Worker alone without rivals. */
export function rowsOf(
  what: string,
  unit: Row['unit'],
  sides: readonly Pick<Side, 'name' | 'target' | 'chat'>[],
  values: readonly (readonly number[])[],
): Row[] {
  const chat = sides.findIndex(({ name }) => name === AS_CHAT)
  const rows = sides.flatMap(({ name: against, target, ...side }, i): Row[] => {
    const own = side.chat && chat !== -1 ? chat : 0
    const [mine = [], theirs = []] = [values[own], values[i]]
    if (i === own || i === 0) return []
    return [
      {
        what: own === 0 ? what : `${what}, as a chat`,
        unit,
        ours: figureOf(mine),
        against,
        theirs: figureOf(theirs),
        share: ratioOf(theirs, mine),
        ...(target === undefined ? {} : { target: { least: target } }),
      },
    ]
  })
  return rows.length > 0 ? rows : [{ what, unit, ours: figureOf(values[0] ?? []) }]
}

let serial = 0

/** A name that no earlier prompt has. */
export const newName = () => String(serial++)

/** Measures CPU time per request. */
export function compare(course: Course, scenario: Scenario): Promise<Row[]> {
  const { upstream, quick } = course
  const { what, answer, question, atOnce, oneVisitor = false } = scenario
  const requests = quick ? Math.max(atOnce, Math.ceil(scenario.requests / 4)) : scenario.requests
  upstream.answer(answer)
  return withSides(course, scenario, async (sides) => {
    if (scenario.cached) await cacheAnswer(sides, question(''))
    const values = await inRounds(
      sides,
      Math.min(course.rounds, scenario.rounds ?? course.rounds),
      async (side) => {
        const { subject, chat } = side
        const startedMs = subject.cpuMs()
        await load(subject, {
          requests,
          atOnce,
          oneVisitor,
          text: upstream.text(),
          question: () => ({ ...question(newName()), chat }),
        })
        await subject.quiet()
        return ((subject.cpuMs() - startedMs) * 1000) / requests
      },
    )
    return rowsOf(`${what}, ${atOnce} at once`, 'µs', sides, values)
  })
}

/** Lets our Worker cache an answer, and stores the same answer in the floors. */
async function cacheAnswer([own, ...others]: readonly Side[], question: Question): Promise<void> {
  if (own === undefined) return
  const { url, sent } = own.subject
  await ask(url, sent(question))
  await own.subject.quiet()
  const { text, headers } = await ask(url, sent(question))
  for (const { subject, name } of others) {
    if (name === BEFORE) await ask(subject.url, subject.sent(question))
    else {
      const type = { 'content-type': String(headers['content-type']) }
      await fetch(subject.url, { method: 'PUT', headers: type, body: text })
    }
  }
}
