// What keeps ours above a floor: the same floor with one of our promises at a time, with all of them,
// and ours, in alternating rounds of one run.
import { load, median } from './load.ts'
import type { Subject } from './subjects.ts'

export interface Duty {
  readonly name: string
  readonly subject: Subject
}

export interface DutyCost {
  readonly name: string
  readonly us: number
  /** Of the first one's. */
  readonly ratio: number
}

export interface DutiesOptions {
  readonly rounds: number
  readonly requests: number
  readonly body: (i: number) => string
  readonly oneVisitor: boolean
}

/** CPU per request of each, the floor first; stops them. */
export async function duties(
  given: readonly Duty[],
  { rounds, requests, body, oneVisitor }: DutiesOptions,
): Promise<DutyCost[]> {
  const used = given.map((): number[] => [])
  let serial = 0
  for (let round = -1; round < rounds; round++) {
    for (const [i, { subject }] of given.entries()) {
      const from = serial
      serial += requests
      const before = subject.cpuMs()
      await load({
        url: subject.url,
        requests,
        atOnce: 8,
        body: (n) => body(from + n),
        oneVisitor,
      })
      // The first round warms up.
      if (round >= 0) used[i]?.push(((subject.cpuMs() - before) * 1000) / requests)
    }
  }
  await Promise.all(given.map(({ subject }) => subject.stop()))
  const [floor = []] = used
  return given.map(({ name }, i) => ({
    name,
    us: median(used[i] ?? []),
    ratio: median((used[i] ?? []).map((us, round) => us / (floor[round] ?? us))),
  }))
}
