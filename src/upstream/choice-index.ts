// Some upstreams number chunks instead of choices: a call for one choice yields pieces with index
// 0, 1, 2, … (or 1, 2, 3, …, or with gaps), all of which belong to that choice.
import type { RawDelta } from '../completion/delta.ts'
import { upstreamFailure } from './failure.ts'

/** A delta that belongs to one choice. */
export type ChoiceDelta = Extract<RawDelta, { kind: 'text' | 'finish' | 'failed' }>

/**
 * Selects the pieces that belong to the choice, in a call that requested one. Index 1 may also be a
 * second choice: such pieces are held back until the next index decides. A higher one means that
 * chunks are counted, 0 that the first choice continues.
 */
export class ChunkCounter {
  /** Pieces were dropped since they belong to other choices. */
  hasDropped = false
  #isCounting = false
  #mayCount = true
  #hasZero: boolean
  #last = 0
  #held: ChoiceDelta[] = []
  /** A piece with an index above 0 had text. */
  #hasText = false

  /** @param hasZero whether pieces with index 0 were received before */
  constructor(hasZero: boolean) {
    this.#hasZero = hasZero
  }

  /**
   * @param isOver whether the choice has its finish reason: another index is then another choice
   * @returns the pieces that are now known to belong to the choice
   * @throws GatewayError `upstream_bad_response`, as `stop` does
   */
  take(piece: ChoiceDelta, isOver: boolean): readonly ChoiceDelta[] {
    const { index } = piece
    const hasText = piece.kind === 'text' && piece.text !== ''
    // Three choices or more: their first chunks looked like chunks that are counted.
    if (index === 0 && hasText && this.#isCounting) this.stop()
    this.#hasText ||= index > 0 && hasText
    if (this.#isCounting) return index < this.#last ? this.#drop() : this.#count(piece)
    if (index === 0) {
      this.#hasZero = true
      if (this.#held.length > 0) this.#giveUp()
      return [piece]
    }
    const isHolding = this.#held.length > 0
    if (isHolding && index > this.#last) {
      this.#isCounting = true
      return this.#count(piece)
    }
    const isFirst = index > 0 && !isHolding && this.#mayCount && !isOver
    if (isFirst || (isHolding && index === this.#last)) {
      this.#last = index
      this.#held.push(piece)
      return []
    }
    this.#giveUp()
    return this.#drop()
  }

  /**
   * Called when the indices are known to be those of choices.
   *
   * @throws GatewayError `upstream_bad_response` if texts of several choices were mixed
   */
  stop(): void {
    if (this.#isCounting && this.#hasText) throw upstreamFailure('bad_response')
    this.hasDropped ||= this.#isCounting
    this.#isCounting = false
    this.#giveUp()
  }

  /** The pieces still held at the end: the second of two chunks, unless the choice was over. */
  rest(isOver: boolean): readonly ChoiceDelta[] {
    if (isOver || !this.#hasZero) this.#giveUp()
    return this.#held.splice(0)
  }

  #count(piece: ChoiceDelta): readonly ChoiceDelta[] {
    this.#last = piece.index
    return [...this.#held.splice(0), piece]
  }

  #drop(): readonly ChoiceDelta[] {
    this.hasDropped = true
    return []
  }

  #giveUp(): void {
    this.#mayCount = false
    this.hasDropped ||= this.#held.length > 0
    this.#held = []
  }
}
