// Reads what an upstream's call or a route delivers. Only this file depends on how deltas arrive.
import { GatewayError } from '../../src/errors.ts'
import { recordOutput } from './canary.ts'

/** What has arrived, and the error that ended it. */
export interface Outcome<D> {
  readonly batches: readonly (readonly D[])[]
  readonly deltas: readonly D[]
  /** The text of each choice. */
  readonly texts: readonly string[]
  readonly error: unknown
  readonly code: string | null
}

interface AnyDelta {
  readonly kind: string
  readonly index?: number | null
  readonly text?: string
}

/** Starts what pushes batches; the signal stops it. */
export type Start<D> = (push: (batch: readonly D[]) => void, signal: AbortSignal) => Promise<void>

export class Reading<D extends AnyDelta> {
  readonly #batches: (readonly D[])[] = []
  readonly #left = new AbortController()
  readonly #over: Promise<void>
  #isOver = false
  #wake = () => {}

  constructor(start: Start<D>, signal: AbortSignal) {
    const push = (batch: readonly D[]) => {
      this.#batches.push(batch)
      this.#wake()
    }
    this.#over = start(push, AbortSignal.any([signal, this.#left.signal])).finally(() => {
      this.#isOver = true
      this.#wake()
    })
    this.#over.catch(() => {})
  }

  /** The next batch; null at the end. */
  async next(): Promise<readonly D[] | null> {
    while (this.#batches.length === 0 && !this.#isOver) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve
      })
    }
    const batch = this.#batches.shift()
    if (batch === undefined) await this.#over
    return batch ?? null
  }

  /** Reads until a delta of this kind, and no further. */
  async until(kind: D['kind']): Promise<void> {
    for (let batch = await this.next(); batch !== null; batch = await this.next()) {
      if (batch.some((delta) => delta.kind === kind)) return
    }
  }

  /** Stops reading. */
  async leave(): Promise<void> {
    this.#left.abort()
    await this.#over.catch(() => {})
  }

  /** All that still arrives. */
  async rest(): Promise<Outcome<D>> {
    const batches: (readonly D[])[] = []
    let error: unknown = null
    try {
      for (let batch = await this.next(); batch !== null; batch = await this.next()) {
        batches.push(batch)
      }
    } catch (thrown) {
      error = thrown
    }
    const known = error instanceof GatewayError ? error : null
    if (known !== null) recordOutput(known.message, JSON.stringify(known.cause ?? null))
    const deltas = batches.flat()
    const texts: string[] = []
    for (const { kind, index, text } of deltas) {
      if (kind === 'text') texts[index ?? 0] = (texts[index ?? 0] ?? '') + text
    }
    const code = known?.code ?? (error === null ? null : 'unknown')
    return { batches, deltas, texts, error, code }
  }
}
