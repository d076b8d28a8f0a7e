// The measuring method: each round measures all sides one after another, in reversed order every other
// round. The first round only warms up. Figures are medians with quartiles.

export interface Figure {
  readonly median: number
  /** The first and the third quartile. */
  readonly low: number
  readonly high: number
}

export function figureOf(values: readonly number[]): Figure {
  const sorted = values.toSorted((a, b) => a - b)
  const at = (share: number) => sorted[Math.floor(share * (sorted.length - 1) + 0.5)] ?? Number.NaN
  return { median: at(0.5), low: at(0.25), high: at(0.75) }
}

/** The values of each side, one per round. */
export async function inRounds<Side>(
  sides: readonly Side[],
  rounds: number,
  once: (side: Side, round: number) => Promise<number>,
): Promise<number[][]> {
  const values = sides.map((): number[] => [])
  const order = [...sides.entries()]
  for (let round = -1; round < rounds; round++) {
    for (const [i, side] of order) {
      const value = await once(side, round)
      if (round >= 0) values[i]?.push(value)
    }
    order.reverse()
  }
  return values
}

/** The ratio of two sides, computed per round. */
export function ratioOf(a: readonly number[], b: readonly number[]): Figure {
  return figureOf(a.map((value, round) => value / (b[round] ?? Number.NaN)))
}
