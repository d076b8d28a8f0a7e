// Counts names in bounded space. The counts are exact while there is room; then a new name replaces
// the rarest one, so a name that occurs again and again outlasts any number of names that occur
// once.

/** How often a name has been seen. */
export interface Frequency {
  /** Counted since the name was added to the map, so never too high. */
  readonly count: number
  /** When it was last seen, unix seconds. */
  readonly last: number
}

/** Names with their frequencies. */
export type Frequencies = ReadonlyMap<string, Frequency>

/** Adds sightings of a name; the map holds at most `max` names. */
export function addSightings(
  names: Map<string, Frequency>,
  name: string,
  { count, last }: Frequency,
  max: number,
): void {
  const known = names.get(name)
  if (known !== undefined) {
    names.set(name, { count: known.count + count, last: Math.max(known.last, last) })
    return
  }
  if (names.size >= max) names.delete(rarestOf(names))
  names.set(name, { count, last })
}

/** The names with the highest counts, the most frequent first. */
export function mostFrequent(names: Frequencies, n: number): [string, Frequency][] {
  return [...names].sort(([, a], [, b]) => b.count - a.count || b.last - a.last).slice(0, n)
}

/** Among equally rare names, the oldest. */
function rarestOf(names: Frequencies): string {
  let rarest = ''
  let least = Number.POSITIVE_INFINITY
  for (const [name, { count }] of names) {
    if (count >= least) continue
    rarest = name
    least = count
  }
  return rarest
}
