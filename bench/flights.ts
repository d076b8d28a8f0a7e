// What a flight costs: so many readers of one answer, all aboard before its last piece comes.
import { ask } from './load.ts'
import type { Subject } from './subjects.ts'
import type { BenchUpstream } from './upstream.ts'

/** CPU of the whole flight in ms, its one upstream call included. */
export async function fly(
  subject: Subject,
  upstream: BenchUpstream,
  body: string,
  readers: number,
): Promise<number> {
  const { promise: held, resolve: land } = Promise.withResolvers<void>()
  upstream.answer({ chunks: 8, chars: 100, held })
  const called = upstream.calls()
  const before = subject.cpuMs()
  const flying = Array.from({ length: readers }, () => ask(subject.url, body))
  while (upstream.calls() === called) await passed(5)
  // All are aboard when the object has nothing more to do.
  for (let last = -1; last !== Math.round(subject.cpuMs()); ) {
    last = Math.round(subject.cpuMs())
    await passed(50)
  }
  land()
  for (const { status } of await Promise.all(flying)) {
    if (status !== 200) throw new Error(`a reader of a flight got ${status}`)
  }
  return subject.cpuMs() - before
}

const passed = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))
