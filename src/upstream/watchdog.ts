// The clocks of an upstream call (first byte, idle, deadline, and the grace after its answer's end) in
// one timer, and the signal that ends the call when one of them runs out or when its caller lets go.
import { upstreamFailure } from './failure.ts'

/**
 * How long an upstream is listened to after every choice has finished: usage and the terminator mostly
 * come at once, but some servers never end the body, or send heartbeats without end.
 */
const GRACE_MS = 2000

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
  #waitsFor: 'first_byte' | 'idle' = 'first_byte'
  #wakesAt = 0
  /** What is left of the grace while nobody listens; null: there is none, or it runs. */
  #graceLeftMs: number | null = null
  #graceEndsAt = Number.POSITIVE_INFINITY

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
    const now = this.#options.now()
    this.#waitsFor = 'idle'
    this.#dueAt = now + this.#options.idleMs
    if (this.#graceLeftMs !== null) {
      this.#graceEndsAt = now + this.#graceLeftMs
      this.#graceLeftMs = null
    }
    if (Math.min(this.#dueAt, this.#graceEndsAt) < this.#wakesAt) this.#arm()
  }

  /** Nobody listens: a slow reader's silence is not the upstream's. */
  rest(): void {
    this.#dueAt = Number.POSITIVE_INFINITY
    if (this.#graceEndsAt === Number.POSITIVE_INFINITY) return
    this.#graceLeftMs = this.#graceEndsAt - this.#options.now()
    this.#graceEndsAt = Number.POSITIVE_INFINITY
  }

  /**
   * Told while at rest, after each piece: whether every choice has finished. The first time starts the
   * grace, which nothing extends but a choice that goes on after all.
   */
  finished(isFinished: boolean): void {
    this.#graceLeftMs = isFinished ? (this.#graceLeftMs ?? GRACE_MS) : null
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
    this.#wakesAt = Math.min(this.#dueAt, deadlineAt, this.#graceEndsAt)
    const left = this.#wakesAt - now()
    if (left > 0) {
      this.#timer = setTimeout(() => this.#arm(), left)
      return
    }
    const code = this.#wakesAt === deadlineAt ? 'deadline' : this.#waitsFor
    this.#controller.abort(upstreamFailure('timeout', { code }))
  }
}
