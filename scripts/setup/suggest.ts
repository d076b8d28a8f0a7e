// "Did you mean …" for a flag or a value.

/** Levenshtein's distance: how many letters to add, remove or replace. */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i)
  for (const [i, letter] of [...a].entries()) {
    let diagonal = i
    const next = [i + 1]
    for (const [j, other] of [...b].entries()) {
      const cost = letter === other ? diagonal : diagonal + 1
      next.push(Math.min(cost, (row[j + 1] ?? 0) + 1, (next[j] ?? 0) + 1))
      diagonal = row[j + 1] ?? 0
    }
    row = next
  }
  return row.at(-1) ?? 0
}

/** The known word that is nearest to what was written, as a question; "" if there is no such word. */
export function didYouMean(word: string, known: readonly string[]): string {
  const near = known
    .map((each) => ({ each, cost: each.startsWith(word) ? 0 : distance(word.toLowerCase(), each) }))
    .filter(({ each, cost }) => cost <= Math.max(1, Math.floor(each.length / 3)))
    .sort((a, b) => a.cost - b.cost)
  return near[0] === undefined ? '' : ` Did you mean "${near[0].each}"?`
}
