// Where an upstream numbers chunks instead of choices. One choice was asked for, and its pieces come
// as index 0, 1, 2, … (or 1, 2, 3, …): all of them are its own. Does not know what a piece holds.

/**
 * Sorts the pieces of a call that asked for one choice.
 *
 * Index 1 may as well be a second choice that nobody asked for, so such pieces are held until the next
 * index decides: 2 can only be a counter, 0 is the choice itself going on.
 */
export class ChunkCounter<Piece> {
  /** Pieces of other choices, which are dropped. */
  dropped = 0
  #isCounting = false
  #mayCount = true
  #hasZero: boolean
  #last = 0
  #held: Piece[] = []

  /** @param hasZero pieces with index 0 have come before */
  constructor(hasZero: boolean) {
    this.#hasZero = hasZero
  }

  /**
   * @param isOver the choice has its reason: another index is then another choice
   * @returns the pieces that are now known to be the choice's own
   */
  take(index: number, piece: Piece, isOver: boolean): readonly Piece[] {
    if (this.#isCounting) return this.#count(index, piece)
    if (index === 0) {
      this.#hasZero = true
      if (this.#held.length > 0) this.#giveUp()
      return [piece]
    }
    if (index === 1 && this.#mayCount && (!isOver || this.#held.length > 0)) {
      this.#held.push(piece)
      return []
    }
    if (index === 2 && this.#held.length > 0) {
      this.#isCounting = true
      this.#last = 2
      return [...this.#held.splice(0), piece]
    }
    this.#giveUp()
    this.dropped += 1
    return []
  }

  /** The pieces still held when nothing more comes: an answer of two chunks, unless it was over. */
  rest(isOver: boolean): readonly Piece[] {
    if (isOver || !this.#hasZero) this.#giveUp()
    return this.#held.splice(0)
  }

  #count(index: number, piece: Piece): readonly Piece[] {
    if (index === this.#last || index === this.#last + 1) {
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
