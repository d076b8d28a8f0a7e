// Runs several calls, with a limit on how many run at the same time.

/** A Worker can have six connections waiting for a response. */
export const CALLS_AT_ONCE = 6

/**
 * Runs all works in order, at most `atOnce` at a time. The first failure ends all of them, and is
 * thrown when they have ended.
 *
 * @param stop cancels the works under way
 */
export async function runAll<T>(
  works: readonly (() => Promise<T>)[],
  atOnce: number,
  stop: () => void,
): Promise<T[]> {
  const results: T[] = []
  const waiting = works.entries()
  let failure: { readonly error: unknown } | null = null
  const runWaiting = async () => {
    for (const [i, work] of waiting) {
      try {
        results[i] = await work()
      } catch (error) {
        failure ??= { error }
        stop()
      }
      if (failure !== null) return
    }
  }
  await Promise.all(Array.from({ length: Math.min(atOnce, works.length) }, runWaiting))
  if (failure !== null) throw (failure as { readonly error: unknown }).error
  return results
}
