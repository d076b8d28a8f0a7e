// The three clocks of an upstream call (first byte, idle, deadline) in one timer, and the signal
// that ends the call when one of them runs out or when its caller lets go.
import { upstreamFailure } from './failure.ts'

export interface WatchdogOptions {
  readonly now: () => number
  readonly signal: AbortSignal
  readonly firstByteMs: number
  readonly idleMs: number
  readonly deadlineAt: number
}

/** `signal` aborts with the GatewayError to report, or with the caller's own reason. */
export class Watchdog {
  readonly signal: AbortSignal
  readonly #controller = new AbortController()
  readonly #options: WatchdogOptions
  readonly #aborted: Promise<never>
  readonly #leave = () => this.#controller.abort(this.#options.signal.reason)
  #timer: ReturnType<typeof setTimeout> | null = null
  #dueAt: number
  #wakesAt = 0

  constructor(options: WatchdogOptions) {
    this.#options = options
    this.signal = this.#controller.signal
    this.#dueAt = options.now() + options.firstByteMs
    this.#aborted = new Promise((_, reject) => {
      this.signal.addEventListener('abort', () => reject(this.signal.reason), { once: true })
    })
    this.#aborted.catch(() => {})
    if (options.signal.aborted) this.#leave()
    else options.signal.addEventListener('abort', this.#leave, { once: true })
    this.#arm()
  }

  /** The upstream sent something, or is listened to again. */
  alive(): void {
    this.#dueAt = this.#options.now() + this.#options.idleMs
    if (this.#dueAt < this.#wakesAt) this.#arm()
  }

  /** Nobody listens: a slow reader's silence is not the upstream's. */
  rest(): void {
    this.#dueAt = Number.POSITIVE_INFINITY
  }

  /** What `work` brings, unless time runs out before. */
  race<T>(work: Promise<T>): Promise<T> {
    work.catch(() => {})
    return Promise.race([work, this.#aborted])
  }

  stop(): void {
    if (this.#timer !== null) clearTimeout(this.#timer)
    this.#options.signal.removeEventListener('abort', this.#leave)
  }

  /** Not re-armed for each chunk: it wakes when it was due, and sleeps again if it is not. */
  #arm(): void {
    const { now, deadlineAt } = this.#options
    if (this.#timer !== null) clearTimeout(this.#timer)
    this.#wakesAt = Math.min(this.#dueAt, deadlineAt)
    const left = this.#wakesAt - now()
    if (left <= 0) this.#controller.abort(upstreamFailure('timeout'))
    else this.#timer = setTimeout(() => this.#arm(), left)
  }
}
