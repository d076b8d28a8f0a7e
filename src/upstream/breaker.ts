// Stops calling a model that keeps failing at its upstream, for a while, in this isolate. Only what
// says something about the upstream itself may be reported here: attempt by attempt, route.ts
// decides what that is.

export interface BreakerOptions {
  /** Failures in a row that open it. */
  readonly failures: number
  /** How long it stays open. Then one call is let through, as a trial. */
  readonly openMs: number
}

/** One admitted call. Its reports count only while the breaker is closed, or if it is the trial. */
export interface AdmittedCall {
  /** Text has arrived: a trial has succeeded, and the others need not wait for its end. */
  begun(): void
  /** The upstream answered, with a completion or by refusing this one request. */
  answered(): void
  failed(nowMs: number): void
  /** Nothing more will be reported. A trial without a verdict is left to the next call. */
  over(): void
}

/** For every upstream. */
const LIMITS: BreakerOptions = { failures: 10, openMs: 15_000 }

export class Breaker {
  readonly #options: BreakerOptions
  /** In a row. */
  #failures = 0
  /** Null: closed. */
  #openedAt: number | null = null
  #trial: AdmittedCall | null = null

  constructor(options: BreakerOptions) {
    this.#options = options
  }

  /** Null: no call may be made now. */
  admit(nowMs: number): AdmittedCall | null {
    if (this.isOpen(nowMs) || this.#trial !== null) return null
    const call: AdmittedCall = {
      begun: () => {
        if (this.#trial === call) this.#close()
      },
      answered: () => {
        if (this.#counts(call)) this.#close()
      },
      failed: (at) => {
        if (this.#counts(call)) this.#fail(at)
      },
      over: () => {
        if (this.#trial === call) this.#trial = null
      },
    }
    if (this.#openedAt !== null) this.#trial = call
    return call
  }

  isOpen(nowMs: number): boolean {
    return this.#leftMs(nowMs) > 0
  }

  /** Until a call may be made, in whole seconds; at least one, since a trial may be under way. */
  retryAfterSeconds(nowMs: number): number {
    return Math.max(1, Math.ceil(this.#leftMs(nowMs) / 1000))
  }

  /** A clock that goes back must not keep it open for longer. */
  #leftMs(nowMs: number): number {
    if (this.#openedAt === null || nowMs < this.#openedAt) return 0
    return Math.max(0, this.#openedAt + this.#options.openMs - nowMs)
  }

  #counts(call: AdmittedCall): boolean {
    return this.#openedAt === null || this.#trial === call
  }

  #close(): void {
    this.#failures = 0
    this.#openedAt = null
    this.#trial = null
  }

  #fail(nowMs: number): void {
    this.#failures += 1
    if (this.#openedAt === null && this.#failures < this.#options.failures) return
    this.#openedAt = nowMs
    this.#trial = null
  }
}

/** Models come from the configuration, which has far fewer. */
const MAX_MODELS = 256

/** The breakers of one upstream, one for each of its models. */
export class Breakers {
  readonly #options: BreakerOptions
  readonly #byModel = new Map<string, Breaker>()

  constructor(options: BreakerOptions = LIMITS) {
    this.#options = options
  }

  /** @param model the upstream's own name of it */
  of(model: string): Breaker {
    const known = this.#byModel.get(model)
    if (known !== undefined) return known
    const [oldest] = this.#byModel.keys()
    if (oldest !== undefined && this.#byModel.size >= MAX_MODELS) this.#byModel.delete(oldest)
    const breaker = new Breaker(this.#options)
    this.#byModel.set(model, breaker)
    return breaker
  }
}
