// The timeouts of an upstream call (first byte, idle, deadline, and the grace period after the end
// of the answer) in one timer. Its signal ends the call when one of them expires or the caller
// aborts.
import { upstreamFailure } from './failure.ts'

/**
 * How long the body is read after every choice has finished. Usage and the terminator usually
 * follow immediately, but some servers never end the body, or keep sending heartbeats.
 */
const GRACE_MS = 2000

export interface WatchdogOptions {
  readonly now: () => number
  /** Aborts the call when its answer is no longer needed. */
  readonly signal: AbortSignal
  readonly firstByteMs: number
  readonly idleMs: number
  /** The end of the request's deadline, in ms since the epoch. */
  readonly deadlineAt: number
}

/** `signal` aborts with the GatewayError to report, or with the reason of the caller's signal. */
export class Watchdog {
  readonly signal: AbortSignal
  readonly #controller = new AbortController()
  readonly #options: WatchdogOptions
  readonly #abort = () => this.#controller.abort(this.#options.signal.reason)
  #timer: ReturnType<typeof setTimeout> | null = null
  #dueAt: number
  #phase: 'first_byte' | 'idle' = 'first_byte'
  #wakesAt = 0
  #graceEndsAt = Number.POSITIVE_INFINITY

  constructor(options: WatchdogOptions) {
    this.#options = options
    this.signal = this.#controller.signal
    this.#dueAt = options.now() + options.firstByteMs
    if (options.signal.aborted) this.#abort()
    else options.signal.addEventListener('abort', this.#abort, { once: true })
    this.#arm()
  }

  /** Restarts the idle clock: the upstream has sent something. */
  alive(): void {
    this.#phase = 'idle'
    this.#dueAt = this.#options.now() + this.#options.idleMs
    if (this.#dueAt < this.#wakesAt) this.#arm()
  }

  /**
   * Called after each text, with whether every choice has finished. The first time starts the grace
   * period. Only a choice that continues after all ends it.
   */
  finished(isFinished: boolean): void {
    if (!isFinished) this.#graceEndsAt = Number.POSITIVE_INFINITY
    else if (this.#graceEndsAt === Number.POSITIVE_INFINITY) {
      this.#graceEndsAt = this.#options.now() + GRACE_MS
      if (this.#graceEndsAt < this.#wakesAt) this.#arm()
    }
  }

  /** The result of `work`. Rejects if the signal aborts first. */
  race<T>(work: Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      const abort = () => reject(this.signal.reason)
      if (this.signal.aborted) abort()
      this.signal.addEventListener('abort', abort, { once: true })
      work.then(resolve, reject)
    })
  }

  stop(): void {
    if (this.#timer !== null) clearTimeout(this.#timer)
    this.#options.signal.removeEventListener('abort', this.#abort)
  }

  /** The timer is not reset for each chunk: when it fires too early, it is set again. */
  #arm(): void {
    const { now, deadlineAt } = this.#options
    if (this.#timer !== null) clearTimeout(this.#timer)
    this.#wakesAt = Math.min(this.#dueAt, deadlineAt, this.#graceEndsAt)
    const left = this.#wakesAt - now()
    if (left > 0) {
      this.#timer = setTimeout(() => this.#arm(), left)
      return
    }
    const code = this.#wakesAt === deadlineAt ? 'deadline' : this.#phase
    this.#controller.abort(upstreamFailure('timeout', { code }))
  }
}
