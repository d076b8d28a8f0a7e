// The sunset watch: once a day, it compares the configured models with the upstreams' lists, so that
// the owner learns early that a model ends. What is known is stored as one row by the ledger object,
// whose single thread sees to it that each alert is sent once.
//
// A model is gone if the upstream has it neither in its list nor under `GET /models/{id}` and says
// so, or if a model that was listed before is missing on two days. A model that was never listed may
// have a name that lists do not have, such as an alias of one's own server.
import { inTime } from '../deadline.ts'
import type { Event } from '../events.ts'
import { isRecord, parseJson } from '../json.ts'
import type { Target } from '../request/effective.ts'
import { lookFor, type ModelList, type Sighting } from './model-list.ts'

/** What the owner is told about a target, once for each step. */
export type Ending = Extract<Event, { event: 'model_ending' }>
/** It ends within this number of days, or is gone. */
type Step = Ending['step']

/** What is stored of a target. */
interface Watched {
  /** Its upstream has listed it. */
  readonly seen: boolean
  /** The first day, counted from 1970, on which the latest lists did not have it. */
  readonly missingSince: number | null
  readonly gone: boolean
  /** Unix ms. */
  readonly endsAt: number | null
  readonly sent: readonly Step[]
}

/** By the key of the target. */
export type Watch = Readonly<Record<string, Watched>>

interface WatchedTarget extends Target {
  /** The target with its address: another server of that name is another target. */
  readonly key: string
  /** The ids of the models that it answers. */
  readonly models: readonly string[]
}

/** A target, and what its upstream says about it. */
export type Sighted = WatchedTarget & Sighting

const DAY_MS = 86_400_000
const DAYS = [7, 30, 60] as const

const unknown: Watch = {}
const nothing: Watched = { seen: false, missingSince: null, gone: false, endsAt: null, sent: [] }

/** What is known after a check. Targets that are not part of it are no longer configured. */
export function update(
  watch: Watch,
  sighted: readonly Sighted[],
  nowMs: number,
): { readonly watch: Watch; readonly endings: readonly Ending[] } {
  const next: Record<string, Watched> = {}
  const endings: Ending[] = []
  for (const { key, models, upstream, upstream_model, ...sighting } of sighted) {
    const known = seenAs(sighting, watch[key] ?? nothing, Math.floor(nowMs / DAY_MS))
    const step = stepOf(known, nowMs)
    const isNew = step !== null && !known.sent.includes(step)
    const passed = isNew ? [step, ...DAYS.filter((days) => step !== 'gone' && days > step)] : []
    next[key] = { ...known, sent: [...new Set([...known.sent, ...passed])] }
    if (!isNew) continue
    const ends_on = dateOf(known.endsAt)
    endings.push({ event: 'model_ending', models, upstream, upstream_model, step, ends_on })
  }
  return { watch: next, endings }
}

function seenAs({ found, endsAt }: Sighting, known: Watched, today: number): Watched {
  switch (found) {
    case 'listed':
      return { ...known, seen: true, missingSince: null, gone: false, endsAt }
    case 'refused':
      return { ...known, gone: true }
    case 'missing': {
      if (!known.seen) return known
      const missingSince = known.missingSince ?? today
      return { ...known, missingSince, gone: known.gone || today > missingSince }
    }
    case 'unsure':
      return known
    default:
      return found satisfies never
  }
}

function stepOf({ gone, endsAt }: Watched, nowMs: number): Step | null {
  if (gone) return 'gone'
  if (endsAt === null) return null
  return DAYS.find((days) => endsAt - nowMs <= days * DAY_MS) ?? null
}

const dateOf = (ms: number | null) => (ms === null ? null : new Date(ms).toISOString().slice(0, 10))

/** A stored watch. What cannot be read is forgotten. */
export function parseWatch(text: string | null): Watch {
  const watch = parseJson(text ?? '{}')
  return isRecord(watch) ? (watch as Watch) : {}
}

export interface SunsetDeps {
  readonly models: ReadonlyMap<string, { readonly route: readonly Target[] }>
  /** Of the upstreams that have one, by the name of the upstream. */
  readonly lists: ReadonlyMap<string, ModelList>
  readonly store: WatchStore
  readonly now: () => number
}

/** The ledger object. */
export interface WatchStore {
  /** Stores what was seen, and sends the alerts. */
  readonly update: (sighted: readonly Sighted[]) => Promise<void>
  readonly read: () => Promise<Watch>
}

/** How long `GET /health` waits for what is stored. */
const READ_MS = 1000

export class Sunset {
  readonly #deps: SunsetDeps

  constructor(deps: SunsetDeps) {
    this.#deps = deps
  }

  /** The daily check. @throws Error if the ledger cannot be reached */
  async check(): Promise<void> {
    const { lists, store } = this.#deps
    const targets = this.#targets()
    if (targets.length === 0) return
    const checks = [...lists].map(([name, list]) => {
      const own = targets.filter(({ upstream }) => upstream === name)
      return lookFor(own, list)
    })
    await store.update((await Promise.all(checks)).flat())
  }

  /** Warnings for the owner. Never throws: if the ledger does not answer, the list is empty. */
  async warnings(): Promise<string[]> {
    const { store, now } = this.#deps
    const targets = this.#targets()
    if (targets.length === 0) return []
    const watch = await inTime(READ_MS, store.read(), () => unknown).catch(() => unknown)
    return targets.flatMap((target) => {
      const known = watch[target.key] ?? nothing
      const step = stepOf(known, now())
      return step === null ? [] : warningOf(target, known, now())
    })
  }

  /** The targets of all models whose upstreams have a list, each once. */
  #targets(): WatchedTarget[] {
    const { models, lists } = this.#deps
    const targets = new Map<string, WatchedTarget & { readonly models: string[] }>()
    for (const [id, { route }] of models) {
      for (const { upstream, upstream_model } of route) {
        const list = lists.get(upstream)
        if (list === undefined) continue
        const key = `${upstream} ${list.baseUrl} ${upstream_model}`
        const target = targets.get(key) ?? { key, upstream, upstream_model, models: [] }
        if (!target.models.includes(id)) target.models.push(id)
        targets.set(key, target)
      }
    }
    return [...targets.values()]
  }
}

function warningOf(
  { models, upstream, upstream_model }: WatchedTarget,
  { gone, endsAt }: Watched,
  nowMs: number,
): string {
  const date = dateOf(endsAt)
  const fate = gone ? 'is gone' : `${(endsAt ?? 0) > nowMs ? 'ends' : 'was to end'} on ${date}`
  const ids = models.map((id) => `"${id}"`).join(', ')
  return `"${upstream_model}" of upstream "${upstream}" ${fate}: choose another model for ${ids}`
}
