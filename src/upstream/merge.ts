// Several async sequences as one, at most so many at work at a time, in the order things come.

/** A Worker can have six connections waiting for a response. */
export const CALLS_AT_ONCE = 6

/**
 * Items of all sequences as they come, each with the number of its sequence. The first failure ends
 * all, and so does a consumer that leaves.
 *
 * @param stop ends the work the sequences are waiting for: a sequence can only return after that
 */
export async function* merge<T>(
  starts: readonly (() => AsyncGenerator<T>)[],
  atOnce: number,
  stop: () => void,
): AsyncGenerator<readonly [sequence: number, item: T]> {
  const pending = new Map<number, Promise<{ sequence: number; result: IteratorResult<T> }>>()
  const running = new Map<number, AsyncGenerator<T>>()
  let next = 0
  const advance = (sequence: number, generator: AsyncGenerator<T>) => {
    const step = generator.next().then((result) => ({ sequence, result }))
    step.catch(() => {})
    pending.set(sequence, step)
  }
  const fill = () => {
    for (; running.size < atOnce && next < starts.length; next++) {
      const generator = starts[next]?.()
      if (generator === undefined) return
      running.set(next, generator)
      advance(next, generator)
    }
  }
  try {
    for (fill(); pending.size > 0; fill()) {
      const { sequence, result } = await Promise.race(pending.values())
      const generator = running.get(sequence)
      if (result.done === true || generator === undefined) {
        pending.delete(sequence)
        running.delete(sequence)
        continue
      }
      advance(sequence, generator)
      yield [sequence, result.value]
    }
  } finally {
    // An end that nobody waits for is not worth its error.
    if (running.size > 0) stop()
    await Promise.allSettled([...running.values()].map((generator) => generator.return(undefined)))
  }
}
