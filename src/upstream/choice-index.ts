// Some upstreams number chunks instead of choices: a call for one choice yields pieces with index
// 0, 1, 2, … (or 1, 2, 3, …, or with gaps), all of which belong to that choice.

/**
 * Selects the pieces that belong to the choice, in a call that requested one.
 *
 * Index 1 may also be a second choice that was not requested. Such pieces are held back until the
 * next index decides: a higher one means that chunks are counted, 0 means that the first choice
 * continues.
 */
export class ChunkCounter<Piece> {
  /** The number of pieces that were dropped since they belong to other choices. */
  dropped = 0
  /** Whether choices were taken for chunks, and their texts were mixed. */
  isMixed = false
  #isCounting = false
  #mayCount = true
  #hasZero: boolean
  #last = 0
  #held: Piece[] = []
  /** Whether a piece with an index above 0 had text. */
  #hasText = false

  /** @param hasZero whether pieces with index 0 were received before */
  constructor(hasZero: boolean) {
    this.#hasZero = hasZero
  }

  /**
   * @param isOver whether the choice has its finish reason: another index is then another choice
   * @param hasText whether the piece has text
   * @returns the pieces that are now known to belong to the choice
   */
  take(index: number, piece: Piece, isOver: boolean, hasText: boolean): readonly Piece[] {
    // Three choices or more: their first chunks looked like chunks that are counted.
    if (index === 0 && hasText && this.#isCounting) this.stop()
    this.#hasText ||= index > 0 && hasText
    if (this.#isCounting) return this.#count(index, piece)
    if (index === 0) {
      this.#hasZero = true
      if (this.#held.length > 0) this.#giveUp()
      return [piece]
    }
    const isHolding = this.#held.length > 0
    if (isHolding && index > this.#last) {
      this.#isCounting = true
      this.#last = index
      return [...this.#held.splice(0), piece]
    }
    const isFirst = index > 0 && !isHolding && this.#mayCount && !isOver
    if (isFirst || (isHolding && index === this.#last)) {
      this.#last = index
      this.#held.push(piece)
      return []
    }
    this.#giveUp()
    this.dropped += 1
    return []
  }

  /** Called when it is known that the indices are those of choices. */
  stop(): void {
    if (this.#isCounting) {
      this.isMixed = this.#hasText
      this.#isCounting = false
      this.dropped += 1
    }
    this.#giveUp()
  }

  /**
   * The pieces still held at the end of the body: the second of two chunks, unless the choice was
   * over.
   */
  rest(isOver: boolean): readonly Piece[] {
    if (isOver || !this.#hasZero) this.#giveUp()
    return this.#held.splice(0)
  }

  #count(index: number, piece: Piece): readonly Piece[] {
    if (index >= this.#last) {
      this.#last = index
      return [piece]
    }
    this.dropped += 1
    return []
  }

  #giveUp(): void {
    this.#mayCount = false
    this.dropped += this.#held.splice(0).length
  }
}
