// Waiting with a limit.

/**
 * The result of `work`, or that of `late` if it takes longer than `ms`. `late` may throw. Cheaper
 * than `deadline`, as it needs no signal: every cache hit waits like this.
 */
export async function inTime<T, Late>(
  ms: number,
  work: Promise<T>,
  late: () => Late,
): Promise<T | Late> {
  let timer: ReturnType<typeof setTimeout> | null = null
  const timeout = new Promise<Late>((resolve, reject) => {
    timer = setTimeout(() => {
      try {
        resolve(late())
      } catch (error) {
        reject(error)
      }
    }, ms)
  })
  try {
    return await Promise.race([work, timeout])
  } finally {
    if (timer !== null) clearTimeout(timer)
  }
}

/** Resolves after `ms`; rejects with the signal's reason as soon as it is aborted. */
export type Wait = (ms: number, signal: AbortSignal) => Promise<void>

/**
 * The result of `work`, or that of `late` if it takes longer than `ms`. `late` may throw.
 *
 * @param work its signal is aborted when the result is known
 */
export async function deadline<T, Late>(
  ms: number,
  work: (over: AbortSignal) => Promise<T>,
  late: () => Late,
  sleep: Wait = wait,
): Promise<T | Late> {
  const over = new AbortController()
  const working = work(over.signal)
  const timeout = sleep(ms, over.signal).then(late)
  timeout.catch(() => {})
  try {
    return await Promise.race([working, timeout])
  } finally {
    over.abort()
  }
}

export const wait: Wait = (ms, signal) =>
  new Promise((resolve, reject) => {
    if (signal.aborted) return reject(signal.reason)
    const abort = () => {
      clearTimeout(timer)
      reject(signal.reason)
    }
    const timer = setTimeout(() => {
      signal.removeEventListener('abort', abort)
      resolve()
    }, ms)
    signal.addEventListener('abort', abort, { once: true })
  })
