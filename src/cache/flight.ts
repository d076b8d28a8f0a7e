// One load that others join: the deltas are recorded as they come, and each reader goes through the
// recording at its own pace. Pure: no clock, no platform; objects/flight.ts runs it.
import { type Delta, Fold, type Folded } from '../completion/delta.ts'

export interface FlightOptions {
  /**
   * Whether the answer is worth having with nobody waiting for it. If so the load runs on by itself,
   * its recording bounded by the upstream's `max_output_bytes`; if not it only runs while a reader
   * has caught up with it, and is aborted when the last one has left.
   */
  readonly keepGoing: boolean
}

/** The load; the signal aborts it. */
export type Load = (signal: AbortSignal) => AsyncGenerator<readonly Delta[]>

export type FlightState = 'flying' | 'landed' | 'failed'

export class Flight {
  /** Settles when the load is over; never rejects. */
  readonly over: Promise<void>
  readonly #options: FlightOptions
  readonly #controller = new AbortController()
  readonly #deltas: Delta[] = []
  readonly #fold = new Fold()
  #state: FlightState = 'flying'
  #error: unknown = null
  readonly #seats = new Set<Seat>()
  #wanted = Promise.withResolvers<void>()

  constructor(load: Load, options: FlightOptions) {
    this.#options = options
    this.over = this.#run(load(this.#controller.signal))
  }

  get state(): FlightState {
    return this.#state
  }

  /** The whole answer, once landed. */
  get folded(): Folded | null {
    return this.#state === 'landed' ? this.#fold.folded() : null
  }

  /** Everything recorded so far; grows. */
  get recording(): readonly Delta[] {
    return this.#deltas
  }

  /**
   * A reader's way along the recording: its length, each time the reader asks and there is more. So
   * a slow reader takes much at a time and costs no memory of its own.
   *
   * @param left aborts when the reader has gone: it must not wait for news to be noticed
   * @throws what the load threw, after all that was recorded before it
   */
  async *progress(left: AbortSignal): AsyncGenerator<number> {
    const seat: Seat = { wake: null }
    const leave = () => this.#leave(seat)
    this.#seats.add(seat)
    left.addEventListener('abort', leave, { once: true })
    let position = 0
    try {
      while (!left.aborted) {
        if (position < this.#deltas.length) {
          position = this.#deltas.length
          yield position
        } else if (this.#state === 'flying') {
          await this.#news(seat)
        } else {
          if (this.#state === 'failed') throw this.#error
          return
        }
      }
    } finally {
      left.removeEventListener('abort', leave)
      leave()
    }
  }

  #news(seat: Seat): Promise<void> {
    return new Promise((resolve) => {
      seat.wake = resolve
      this.#wanted.resolve()
    })
  }

  #leave(seat: Seat): void {
    if (!this.#seats.delete(seat)) return
    seat.wake?.()
    if (this.#seats.size > 0 || this.#options.keepGoing || this.#state !== 'flying') return
    // At once: who comes while the load is being ended must not join what has no future.
    this.#fail(new Abandoned())
    this.#controller.abort(this.#error)
    this.#wanted.resolve()
  }

  #fail(error: unknown): void {
    if (this.#state !== 'flying') return
    this.#state = 'failed'
    this.#error = error
  }

  async #run(load: AsyncGenerator<readonly Delta[]>): Promise<void> {
    try {
      for (;;) {
        if (!this.#options.keepGoing) await this.#someoneWaits()
        if (this.#state !== 'flying') break
        const step = await load.next()
        if (step.done === true || this.#state !== 'flying') break
        for (const delta of step.value) {
          this.#deltas.push(delta)
          this.#fold.add(delta)
        }
        this.#announce()
      }
      if (this.#state === 'flying') this.#state = 'landed'
      else await load.return(undefined)
    } catch (error) {
      this.#fail(error)
    }
    this.#announce()
  }

  /** Until a reader has read all there is; or, with nobody left, at once. */
  async #someoneWaits(): Promise<void> {
    while (
      !this.#controller.signal.aborted &&
      ![...this.#seats].some(({ wake }) => wake !== null)
    ) {
      this.#wanted = Promise.withResolvers()
      await this.#wanted.promise
    }
  }

  #announce(): void {
    for (const seat of this.#seats) {
      const { wake } = seat
      seat.wake = null
      wake?.()
    }
  }
}

/** A reader's place; `wake` is there while it has read everything. */
interface Seat {
  wake: (() => void) | null
}

/** Why a load was aborted: nobody is left to read it. */
export class Abandoned extends Error {
  override readonly name = 'Abandoned'
}
