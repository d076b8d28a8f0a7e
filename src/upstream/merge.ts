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
  const waiting = starts.entries()
  const running = new Map<AsyncGenerator<T>, ReturnType<typeof stepOf<T>>>()
  const advance = (sequence: number, generator: AsyncGenerator<T>) => {
    const step = stepOf(sequence, generator)
    step.catch(() => {})
    running.set(generator, step)
  }
  try {
    for (;;) {
      while (running.size < atOnce) {
        const { value, done } = waiting.next()
        if (done) break
        advance(value[0], value[1]())
      }
      if (running.size === 0) return
      const { sequence, generator, result } = await Promise.race(running.values())
      if (result.done) {
        running.delete(generator)
      } else {
        advance(sequence, generator)
        yield [sequence, result.value]
      }
    }
  } finally {
    // Errors of sequences that are cancelled here are ignored.
    if (running.size > 0) stop()
    await Promise.allSettled([...running.keys()].map((generator) => generator.return(undefined)))
  }
}

async function stepOf<T>(sequence: number, generator: AsyncGenerator<T>) {
  return { sequence, generator, result: await generator.next() }
}
