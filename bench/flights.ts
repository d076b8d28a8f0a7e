// Many requests that wait for the upstream together: readers of one answer, or as many answers.
import { setTimeout as passed } from 'node:timers/promises'
import { ask, judge } from './load.ts'
import type { Question, Subject } from './subjects.ts'
import type { Answer, BenchUpstream } from './upstream.ts'

export interface Flight {
  readonly questions: readonly Question[]
  readonly answer: Answer
  /**
   * As many are on their way to the upstream at once, and as many are answered at once. Default: all.
   * In the simulator all objects share a thread, so that a crowd of misses would only wait in line.
   */
  readonly atOnce?: number
  /** Called when all wait, before the upstream goes on. */
  readonly underWay?: () => Promise<void>
}

/**
 * The upstream says nothing before all have come and wait.
 * @returns CPU of each of them in µs, the upstream calls included
 * @throws when one is not answered right, or an answer was asked for twice
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
  const flying: Promise<void>[] = []
  let landed = 0
  let fault: unknown = null
  const until = async (condition: () => boolean) => {
    while (!condition()) {
      if (fault !== null) throw fault
      await passed(2)
    }
  }
  const begin = subject.cpuMs()
  for (const question of questions) {
    await until(() => flying.length - waiting.length < atOnce)
    const one = ask(subject.url, subject.sent(question)).then((reply) => {
      judge(reply, upstream.text(), landed === 0)
      landed += 1
    })
    one.catch((error) => {
      fault ??= error
    })
    flying.push(one)
  }
  await until(() => waiting.length >= calls)
  await subject.quiet()
  await underWay?.()
  for (const [i, go] of waiting.entries()) {
    await until(() => calls < questions.length || i - landed < atOnce)
    go()
  }
  await Promise.all(flying)
  await subject.quiet()
  if (waiting.length !== calls) throw new Error(`${waiting.length} calls for ${calls} prompts`)
  return ((subject.cpuMs() - begin) * 1000) / questions.length
}

/** So many readers of one answer. */
export const readers = (count: number, question: Question): Question[] =>
  Array.from({ length: count }, () => question)
