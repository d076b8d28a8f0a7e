// A circuit breaker: suspends calls to an upstream's model that keeps failing, for a while and in
// this isolate. Only outages of the upstream are reported as failures; failover.ts decides which
// errors are.

export interface BreakerOptions {
  /** The number of consecutive failures that opens it. */
  readonly failures: number
  /** How long it stays open. Then one call is admitted as a trial. */
  readonly openMs: number
}

/** An admitted call. Its reports count only while the breaker is closed, or if it is the trial. */
export interface AdmittedCall {
  /** The first text arrived. This closes the breaker if the call is the trial. */
  begun(): void
  /** The upstream answered, with a completion or by refusing this one request. */
  answered(): void
  failed(nowMs: number): void
  /** No more reports follow. If the trial had no result, the next call becomes the trial. */
  over(): void
}

/** For every upstream. */
const LIMITS: BreakerOptions = { failures: 10, openMs: 15_000 }

export class Breaker {
  readonly #options: BreakerOptions
  /** Consecutive failures. */
  #failures = 0
  /** Null: closed. */
  #openedAt: number | null = null
  #trial: AdmittedCall | null = null

  constructor(options: BreakerOptions) {
    this.#options = options
  }

  /** @returns null if no call is allowed now */
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

  /** Whole seconds until a call is allowed; at least one, since a trial may be running. */
  retryAfterSeconds(nowMs: number): number {
    return Math.max(1, Math.ceil(this.#leftMs(nowMs) / 1000))
  }

  /** If the clock was set back, the breaker closes instead of staying open for longer. */
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

/** A bound on the memory. Configurations have far fewer models. */
const MAX_MODELS = 256

/** The breakers of an upstream, one per model. */
export class Breakers {
  readonly #options: BreakerOptions
  readonly #byModel = new Map<string, Breaker>()

  constructor(options: BreakerOptions = LIMITS) {
    this.#options = options
  }

  /** @param model the upstream's own name of the model */
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
