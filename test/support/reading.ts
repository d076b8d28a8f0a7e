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

export class Reading<D extends AnyDelta> {
  readonly #source: AsyncGenerator<readonly D[]>

  constructor(source: AsyncGenerator<readonly D[]>) {
    this.#source = source
  }

  /** The next batch; null at the end. */
  async next(): Promise<readonly D[] | null> {
    const { value, done } = await this.#source.next()
    return done === true ? null : value
  }

  /** Reads until a delta of this kind, and no further, as generate.ts does. */
  async until(kind: D['kind']): Promise<void> {
    for (let batch = await this.next(); batch !== null; batch = await this.next()) {
      if (batch.some((delta) => delta.kind === kind)) return
    }
  }

  /** Stops reading. */
  async leave(): Promise<void> {
    await this.#source.return(undefined)
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
