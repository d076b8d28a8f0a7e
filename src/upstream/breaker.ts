// Stops asking an upstream that keeps failing, for a while, in this isolate.

export interface BreakerOptions {
  /** Failures in a row that open it. */
  readonly failures: number
  /** How long it stays open; then one call may try. */
  readonly openMs: number
}

export class Breaker {
  readonly #options: BreakerOptions
  #failures = 0
  #openUntil = 0
  #trial = false

  constructor(options: BreakerOptions) {
    this.#options = options
  }

  /** Whether a call may be made now. Half open, one caller is let through until it reports. */
  allows(nowMs: number): boolean {
    if (this.#failures < this.#options.failures) return true
    if (nowMs < this.#openUntil || this.#trial) return false
    this.#trial = true
    return true
  }

  /** Whether it stays shut at this time, without asking for the one call. */
  isOpen(nowMs: number): boolean {
    return this.#failures >= this.#options.failures && nowMs < this.#openUntil
  }

  /** Half open, and the one call is under way. */
  get onTrial(): boolean {
    return this.#trial
  }

  succeeded(): void {
    this.#failures = 0
    this.#trial = false
  }

  failed(nowMs: number): void {
    this.#failures += 1
    this.#trial = false
    if (this.#failures >= this.#options.failures) this.#openUntil = nowMs + this.#options.openMs
  }

  /** The trial ended without a verdict: its visitor left, or the request itself was at fault. */
  undecided(): void {
    this.#trial = false
  }
}
