// Which names occur most often, in bounded space. Exact while there is room; then a new name takes the
// place of the rarest one, so that one that keeps coming back outlasts any number that come once.

/** How often a name has been seen. */
export interface Frequency {
  /** Since it was taken in: never more than it was. */
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

/** Of several that are as rare, the one that has been there the longest. */
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
