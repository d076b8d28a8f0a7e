// Merges several async sequences, with a limit on how many run at the same time.

/** A Worker can have six connections waiting for a response. */
export const CALLS_AT_ONCE = 6

/**
 * The items of all sequences as they arrive, each with the number of its sequence. The first
 * failure ends all sequences, and so does returning early.
 *
 * @param stop cancels the work that the sequences await: until then they cannot return
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
    // Errors of sequences that are cancelled here are ignored.
    if (running.size > 0) stop()
    await Promise.allSettled([...running.values()].map((generator) => generator.return(undefined)))
  }
}
