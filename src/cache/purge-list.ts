// The purge list: for each name, the time up to which answers with that name are void. Pure values
// and their text in KV: `{"all":<ms>,"names":{"prompt:haiku":<ms>,…}}`, in unix milliseconds.

import * as v from 'valibot'
import { parseJson } from '../json.ts'
import { byName } from '../validation.ts'
import { modelName, promptName, requestName } from './names.ts'

export interface PurgeList {
  /** Every answer requested at or before this time is void. */
  readonly all: number
  readonly names: ReadonlyMap<string, number>
}

/** One purge by the operator. */
export interface Purge {
  /** Null: everything. */
  readonly names: readonly string[] | null
  /** Answers requested at or before this time become void; unix milliseconds. */
  readonly at: number
}

/**
 * The most names (about 250 KB). Answers may be stored without an expiry, so purges do not expire
 * either: beyond this bound the oldest name is dropped, and everything requested before its time
 * becomes void. Entries are not deleted instead: KV cannot be searched by name, and a running call
 * could write an entry again.
 */
const MAX_NAMES = 4000

export const noPurges: PurgeList = { all: 0, names: new Map() }

const time = v.custom<number>((at) => Number.isSafeInteger(at) && Number(at) >= 0)
const times = byName(v.string(), time)
/** Version 1 stored whole seconds. */
const version1Schema = v.object({ all: time, prompts: times, models: times, keys: times })
const storedSchema = v.union([v.object({ all: time, names: times }), version1Schema])

/** Parses a stored list; null if it is not valid. */
export function parsePurgeList(text: string): PurgeList | null {
  const { success, output: list } = v.safeParse(storedSchema, parseJson(text))
  if (!success) return null
  if (!('names' in list)) return fromVersion1(list)
  return { all: list.all, names: new Map(Object.entries(list.names)) }
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

/** The union of both lists; the later time wins. */
export function mergedLists(a: PurgeList, b: PurgeList): PurgeList {
  const all = Math.max(a.all, b.all)
  const names = new Map(a.names)
  for (const [name, at] of b.names) names.set(name, Math.max(at, names.get(name) ?? 0))
  return bounded(all, names)
}

/** Drops names that `all` already covers, then the oldest ones above `MAX_NAMES`. */
function bounded(all: number, names: ReadonlyMap<string, number>): PurgeList {
  const left = [...names].filter(([, at]) => at > all)
  if (left.length <= MAX_NAMES) return { all, names: new Map(left) }
  const times = left.map(([, at]) => at).sort((a, b) => b - a)
  return bounded(times[MAX_NAMES] ?? all, new Map(left))
}

/** Rounds up to the end of the second, since version 1 voided answers requested within it. */
function fromVersion1(old: v.InferOutput<typeof version1Schema>): PurgeList {
  const ms = (seconds: number) => (seconds === 0 ? 0 : seconds * 1000 + 999)
  const named = (list: Readonly<Record<string, number>>, nameOf: (name: string) => string) =>
    Object.entries(list).map(([name, seconds]) => [nameOf(name), ms(seconds)] as const)
  const names = [
    ...named(old.prompts, promptName),
    ...named(old.models, modelName),
    ...named(old.keys, requestName),
  ]
  return bounded(ms(old.all), new Map(names))
}
