// The list of what has been purged: for each name the time up to which it is void. Pure values, and
// their text in KV: `{"all":<ms>,"names":{"prompt:haiku":<ms>,…}}`, times in unix milliseconds.
import * as v from 'valibot'
import { modelName, promptName, requestName } from './names.ts'

export interface PurgeList {
  /** Whatever was asked at or before this time is void. */
  readonly all: number
  readonly names: ReadonlyMap<string, number>
}

/** What the operator declares void, up to a time in unix milliseconds. */
export interface Purge {
  /** Null: everything. */
  readonly names: readonly string[] | null
  readonly at: number
}

/**
 * An answer may be kept for ever, so a purge is, too. What keeps the list small is that a name has
 * one time however often it is purged, and this bound: when there are more names, the oldest one is
 * dropped and everything asked before it is void. An owner who purges ten different pages a day gets
 * there after a year, and then loses what has not been made again since. The list then has about
 * 250 KB. Deleting the entries would not do: not all that a purge names can be found in KV, and a
 * call under way would write one again.
 */
export const MAX_NAMES = 4000

export const noPurges: PurgeList = { all: 0, names: new Map() }

const time = v.pipe(v.number(), v.safeInteger(), v.minValue(0))
/** Not a `record`, which drops names that objects have by birth, such as "constructor". */
const times = v.custom<Readonly<Record<string, number>>>(
  (value) =>
    typeof value === 'object' &&
    value !== null &&
    Object.values(value).every((at) => v.is(time, at)),
)
const listSchema = v.object({ all: time, names: times })
/** Version 1 counted whole seconds. */
const version1Schema = v.object({ all: time, prompts: times, models: times, keys: times })

/** The list in a stored text; null for anything that is none. */
export function parsePurgeList(text: string): PurgeList | null {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    return null
  }
  const list = v.safeParse(listSchema, value)
  if (list.success)
    return { all: list.output.all, names: new Map(Object.entries(list.output.names)) }
  const old = v.safeParse(version1Schema, value)
  return old.success ? fromVersion1(old.output) : null
}

export function formatPurgeList({ all, names }: PurgeList): string {
  return JSON.stringify({ all, names: Object.fromEntries(names) })
}

/** The time up to which an answer with these names is void; 0: it was never purged. */
export function purgedAt({ all, names }: PurgeList, named: readonly string[]): number {
  return named.reduce((latest, name) => Math.max(latest, names.get(name) ?? 0), all)
}

export function withPurge(list: PurgeList, { names, at }: Purge): PurgeList {
  const added = names === null ? [] : names.map((name) => [name, at] as const)
  return mergedLists(list, { all: names === null ? at : 0, names: new Map(added) })
}

/** Both lists' purges: no purge is ever taken back. */
export function mergedLists(a: PurgeList, b: PurgeList): PurgeList {
  const all = Math.max(a.all, b.all)
  const names = new Map(a.names)
  for (const [name, at] of b.names) names.set(name, Math.max(at, names.get(name) ?? 0))
  return bounded(all, names)
}

/** What everything's time covers needs no time of its own. */
function bounded(all: number, names: ReadonlyMap<string, number>): PurgeList {
  const left = [...names].filter(([, at]) => at > all)
  if (left.length <= MAX_NAMES) return { all, names: new Map(left) }
  const times = left.map(([, at]) => at).sort((a, b) => b - a)
  return bounded(times[MAX_NAMES] ?? all, new Map(left))
}

/** The end of each second: version 1 counted what was asked within it as void. */
function fromVersion1({
  all,
  prompts,
  models,
  keys,
}: v.InferOutput<typeof version1Schema>): PurgeList {
  const ms = (seconds: number) => (seconds === 0 ? 0 : seconds * 1000 + 999)
  const named = (list: Readonly<Record<string, number>>, nameOf: (name: string) => string) =>
    Object.entries(list).map(([name, seconds]) => [nameOf(name), ms(seconds)] as const)
  return bounded(
    ms(all),
    new Map([
      ...named(prompts, promptName),
      ...named(models, modelName),
      ...named(keys, requestName),
    ]),
  )
}
