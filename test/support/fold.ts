/** Folds deltas into the complete answer. */
import { type Delta, Fold, type FoldedAnswer } from '../../src/completion/delta.ts'

export function fold(deltas: readonly Delta[]): FoldedAnswer {
  const folding = new Fold()
  for (const delta of deltas) folding.add(delta)
  const folded = folding.folded()
  if (folded === null) throw new TypeError('not whole')
  return folded
}
