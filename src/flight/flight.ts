// Singleflight: one upstream load shared by several readers. Deltas are recorded as they arrive,
// and each reader consumes the recording at its own pace. Pure (no clock, no platform APIs);
// objects/flight.ts runs it.
import type { Delta } from '../completion/delta.ts'

export interface FlightOptions {
  /**
   * Whether the load is finished without readers. If so, it runs at its own pace, bounded by the
   * upstream's `max_output_bytes`. If not, it is aborted when the last reader leaves.
   */
  readonly keepGoing: boolean
  /**
   * Whether a load that is aborted without readers runs at its own pace until then, so that the text
   * recorded is the text that was paid for. If not, it advances only when a reader has caught up.
   */
  readonly readAhead?: boolean
}

/** Starts the load; the signal aborts it. */
export type Load = (signal: AbortSignal) => AsyncGenerator<readonly Delta[]>

export type FlightState = 'running' | 'finished' | 'failed'

export class Flight {
  /** Settles when the load is over; never rejects. */
  readonly over: Promise<void>
  readonly #options: FlightOptions
  readonly #controller = new AbortController()
  readonly #deltas: Delta[] = []
  #state: FlightState = 'running'
  #error: unknown = null
  readonly #readers = new Set<ReaderState>()
  #demand = Promise.withResolvers<void>()

  constructor(load: Load, options: FlightOptions) {
    this.#options = options
    this.over = this.#run(load(this.#controller.signal))
  }

  get state(): FlightState {
    return this.#state
  }

  /** Everything recorded so far. Grows while the load runs. */
  get recording(): readonly Delta[] {
    return this.#deltas
  }

  /**
   * Adds a reader. Yields the length of the recording whenever the reader asks and it has grown, so
   * a slow reader takes many deltas at a time and needs no buffer of its own.
   *
   * @param left aborts when the reader disconnects, which must be noticed even if no delta arrives
   * @throws the error of the load, after everything that was recorded before it
   */
  async *progress(left: AbortSignal): AsyncGenerator<number> {
    const reader: ReaderState = { wake: null }
    const leave = () => this.#leave(reader)
    this.#readers.add(reader)
    left.addEventListener('abort', leave, { once: true })
    let position = 0
    try {
      while (!left.aborted) {
        if (position < this.#deltas.length) {
          position = this.#deltas.length
          yield position
        } else if (this.#state === 'running') {
          await this.#nextDelta(reader)
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

  #nextDelta(reader: ReaderState): Promise<void> {
    return new Promise((resolve) => {
      reader.wake = resolve
      this.#demand.resolve()
    })
  }

  #leave(reader: ReaderState): void {
    if (!this.#readers.delete(reader)) return
    reader.wake?.()
    if (this.#readers.size > 0 || this.#options.keepGoing || this.#state !== 'running') return
    // Fail synchronously: a reader that comes during the abort must not join a dying flight.
    this.#fail(new Abandoned())
    this.#controller.abort(this.#error)
    this.#demand.resolve()
  }

  #fail(error: unknown): void {
    if (this.#state !== 'running') return
    this.#state = 'failed'
    this.#error = error
  }

  async #run(load: AsyncGenerator<readonly Delta[]>): Promise<void> {
    const { keepGoing, readAhead = false } = this.#options
    try {
      for (;;) {
        if (!(keepGoing || readAhead)) await this.#untilDemand()
        if (this.#state !== 'running') break
        const step = await load.next()
        if (step.done === true || this.#state !== 'running') break
        for (const delta of step.value) this.#deltas.push(delta)
        this.#announce()
      }
      if (this.#state === 'running') this.#state = 'finished'
      else await load.return(undefined)
    } catch (error) {
      this.#fail(error)
    }
    this.#announce()
  }

  /** Waits until a reader has consumed the whole recording, or the load is aborted. */
  async #untilDemand(): Promise<void> {
    while (
      !this.#controller.signal.aborted &&
      ![...this.#readers].some(({ wake }) => wake !== null)
    ) {
      this.#demand = Promise.withResolvers()
      await this.#demand.promise
    }
  }

  #announce(): void {
    for (const reader of this.#readers) {
      const { wake } = reader
      reader.wake = null
      wake?.()
    }
  }
}

/** `wake` is set while the reader waits for the next delta. */
interface ReaderState {
  wake: (() => void) | null
}

/** The reason a load is aborted when its last reader has left. */
class Abandoned extends Error {
  override readonly name = 'Abandoned'
}
