// Many requests that wait for the upstream at the same time, for one answer or for different ones.
import { setTimeout as passed } from 'node:timers/promises'
import { ask, judge } from './load.ts'
import type { Question, Subject } from './subjects.ts'
import type { Answer, BenchUpstream } from './upstream.ts'

export interface Flight {
  readonly questions: readonly Question[]
  readonly answer: Answer
  /**
   * How many requests start, and how many answers are released, at a time. Default: all. The simulator
   * runs all objects in one thread, so a larger number of misses would only queue up.
   */
  readonly atOnce?: number
  /** Called when all requests are waiting, before the upstream answers. */
  readonly underWay?: () => Promise<void>
}

/**
 * Holds the upstream's answers back until all requests are waiting.
 * @returns CPU time per request in µs, including the upstream calls
 * @throws if an answer is wrong, or the same answer was requested twice from the upstream
 */
export async function fly(
  subject: Subject,
  upstream: BenchUpstream,
  { questions, answer, atOnce = questions.length, underWay }: Flight,
): Promise<number> {
  const waiting: (() => void)[] = []
  const held = () => new Promise<void>((resolve) => waiting.push(resolve))
  upstream.answer({ ...answer, held })
  const calls = new Set(questions.map(({ prompt }) => prompt)).size
  const running: Promise<void>[] = []
  let finished = 0
  let fault: unknown = null
  const until = async (condition: () => boolean) => {
    while (!condition()) {
      if (fault !== null) throw fault
      await passed(2)
    }
  }
  const begin = subject.cpuMs()
  for (const question of questions) {
    await until(() => running.length - waiting.length < atOnce)
    const one = ask(subject.url, subject.sent(question)).then((reply) => {
      judge(reply, upstream.text(), finished === 0)
      finished += 1
    })
    one.catch((error) => {
      fault ??= error
    })
    running.push(one)
  }
  await until(() => waiting.length >= calls)
  await subject.quiet()
  await underWay?.()
  for (const [i, go] of waiting.entries()) {
    await until(() => calls < questions.length || i - finished < atOnce)
    go()
  }
  await Promise.all(running)
  await subject.quiet()
  if (waiting.length !== calls) throw new Error(`${waiting.length} calls for ${calls} prompts`)
  return ((subject.cpuMs() - begin) * 1000) / questions.length
}

/** The same question `count` times. */
export const readers = (count: number, question: Question): Question[] =>
  Array.from({ length: count }, () => question)
