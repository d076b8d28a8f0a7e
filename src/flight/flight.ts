// Singleflight: one upstream load shared by several readers. Deltas are recorded as they arrive, and
// readers are told when the recording has grown; each takes it at its own pace. No platform APIs.
import type { Delta } from '../completion/delta.ts'
import { partsOf } from '../completion/encode.ts'

/** Starts the load, which pushes deltas; the signal aborts it. */
export type Load = (push: (deltas: readonly Delta[]) => void, signal: AbortSignal) => Promise<void>

export interface FlightReader {
  /** The recording has grown, or the load is over. */
  advance(): void
  /** There was nothing new for `KEEP_ALIVE_MS`. */
  keepAlive?(): void
}

export interface FlightOptions {
  /**
   * Whether the load is finished without readers. If not, it is aborted when the last reader leaves.
   * Either way it runs at its own pace, bounded by the upstream's `max_output_bytes`.
   */
  readonly keepGoing: boolean
  readonly now: () => number
}

export type FlightState = 'running' | 'finished' | 'failed'

/**
 * Readers are told of new deltas once in this time, one frame of a screen: each notification costs
 * every reader a write. The first delta after a pause and the end are sent at once.
 */
const GATHER_MS = 16
/** Silence after which a keep-alive comment is sent. */
const KEEP_ALIVE_MS = 15_000

export class Flight {
  /** Settles when the load is over; never rejects. */
  readonly over: Promise<void>
  /** Everything so far. Long texts are in several deltas. */
  readonly recording: Delta[] = []
  readonly #options: FlightOptions
  readonly #controller = new AbortController()
  readonly #readers = new Set<FlightReader>()
  #state: FlightState = 'running'
  #error: unknown = null
  #toldAt = Number.NEGATIVE_INFINITY
  #gather: ReturnType<typeof setTimeout> | null = null
  #silence: ReturnType<typeof setTimeout> | null = null

  constructor(load: Load, options: FlightOptions) {
    this.#options = options
    const push = (deltas: readonly Delta[]) => this.#push(deltas)
    this.over = load(push, this.#controller.signal).then(
      () => this.#end('finished', null),
      (error: unknown) => this.#end('failed', error),
    )
  }

  get state(): FlightState {
    return this.#state
  }

  /** The error of a load that has failed. */
  get error(): unknown {
    return this.#error
  }

  /** Adds a reader. It takes what is there by itself, and is told of the rest. */
  add(reader: FlightReader): void {
    this.#readers.add(reader)
    if (reader.keepAlive !== undefined && this.#state === 'running') this.#silence ??= this.#watch()
  }

  remove(reader: FlightReader): void {
    this.#readers.delete(reader)
    if (this.#readers.size > 0 || this.#options.keepGoing || this.#state !== 'running') return
    // Fail synchronously: a reader that comes during the abort must not join a dying flight.
    this.#end('failed', new Abandoned())
    this.#controller.abort(this.#error)
  }

  #push(deltas: readonly Delta[]): void {
    if (this.#state !== 'running' || deltas.length === 0) return
    for (const delta of deltas) for (const part of partsOf(delta)) this.recording.push(part)
    if (this.#gather !== null) return
    const dueInMs = this.#toldAt + GATHER_MS - this.#options.now()
    if (dueInMs > 0) this.#gather = setTimeout(() => this.#tell(), Math.min(dueInMs, GATHER_MS))
    else this.#tell()
  }

  #end(state: FlightState, error: unknown): void {
    if (this.#state !== 'running') return
    this.#state = state
    this.#error = error
    if (this.#silence !== null) clearTimeout(this.#silence)
    this.#tell()
  }

  #tell(): void {
    if (this.#gather !== null) clearTimeout(this.#gather)
    this.#gather = null
    this.#toldAt = this.#options.now()
    for (const reader of this.#readers) reader.advance()
  }

  /** One timer for all readers. It is not reset for each delta, but set again if it was early. */
  #watch(): ReturnType<typeof setTimeout> {
    const { now } = this.#options
    const toldAt = Number.isFinite(this.#toldAt) ? this.#toldAt : now()
    const check = () => {
      if (now() - this.#toldAt >= KEEP_ALIVE_MS) {
        this.#toldAt = now()
        for (const reader of this.#readers) reader.keepAlive?.()
      }
      this.#silence = this.#readers.size > 0 ? this.#watch() : null
    }
    return setTimeout(check, toldAt + KEEP_ALIVE_MS - now())
  }
}

/** The reason a load is aborted when its last reader has left. */
class Abandoned extends Error {
  override readonly name = 'Abandoned'
}
