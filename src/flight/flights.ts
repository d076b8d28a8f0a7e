// The flights of many keys, at most one at a time for each. Decides whether a reader joins the
// running flight, gets the answer of the last one, or starts a new one. Runs in the Durable Objects
// that all isolates share (objects/flight.ts).

import { type Entry, entryBytes, isFresh } from '../cache/entry.ts'
import type { Reader } from '../completion/encode.ts'
import { RecentMap } from '../lru.ts'
import { entryFor, type Work } from './generate.ts'
import { Miss, type MissAnswer, type MissContext, NOTHING_SENT, wholeAnswer } from './miss.ts'

/** A miss sent to the flight of its key. */
export interface SharedWork extends Work {
  /** The latest purge of it that the calling isolate has seen, in unix ms. */
  readonly purgedAt: number
  /** KV has failed lately in the calling isolate, so that it may have the answer all the same. */
  readonly kvIsUnsure: boolean
}

/** Whether a load for this work is cancelled when its last reader has left. */
export function stopsWithReaders({ lifetime, abandon }: Work): boolean {
  return lifetime === null || abandon === 'stop'
}

/** How many flights a reader joins at most if their results do not apply to it. */
const MAX_JOINS = 3
/** The memory of each object for answers of flights that are over: 4 MiB in all objects together. */
const FINISHED_BYTES = 262_144
/**
 * How long a write to KV may take to be seen everywhere.
 * https://developers.cloudflare.com/kv/concepts/how-kv-works/#consistency
 */
const KV_SPREAD_MS = 60_000

export class Flights {
  readonly #context: MissContext
  readonly #running = new Map<string, Miss>()
  /** The answers of the last flights; the rest of a flight is released. */
  readonly #finished: RecentMap<FinishedFlight>
  /** From then on, every answer that was stored is known here or can be seen in KV. */
  #knowsAllAt: number

  constructor(context: MissContext, finishedBytes = FINISHED_BYTES) {
    this.#context = context
    this.#knowsAllAt = context.now() + KV_SPREAD_MS
    this.#finished = new RecentMap({
      maxBytes: finishedBytes,
      bytesOf: ({ entry }) => entryBytes(entry),
      onEvict: ({ at }) => {
        this.#knowsAllAt = Math.max(this.#knowsAllAt, at + KV_SPREAD_MS)
      },
    })
  }

  /**
   * Answers one reader from the running flight, the last one or a new one. Never rejects.
   *
   * @param left aborted when the reader disconnects
   */
  async join(work: SharedWork, reader: Reader, left: AbortSignal): Promise<MissAnswer> {
    for (let joins = 1; ; joins++) {
      const place = this.#place(work, reader.shape.stream, !stopsWithReaders(work))
      if (place.role === 'late') return this.#late(work, place.entry)
      const { miss, role } = place
      if (miss.work.storedUnder !== work.storedUnder) this.#copyWhenOver(work, miss)
      const answer = await miss.join({ role, reader, left, isRemote: true })
      if (joins < MAX_JOINS && isForLeaderOnly(answer, miss.work, work)) continue
      if (answer.kind !== 'whole' || answer.entry === null) return answer
      return { ...answer, entry: entryFor(work, answer.entry) }
    }
  }

  /** Starts a flight without readers, unless there is one or its answer. It is always finished. */
  refresh(work: SharedWork): void {
    this.#place(work, false, true)
  }

  #place(work: SharedWork, stream: boolean, keepGoing: boolean): Place {
    const { now } = this.#context
    const { key } = work
    const purgedAt = Math.max(work.purgedAt, this.#context.purgedAt(work))
    const running = this.#running.get(key)
    if (running?.flight.state === 'running' && running.serves(work, purgedAt)) {
      return { role: 'follower', miss: running }
    }
    const entry = running?.entry ?? this.#finished.get(key)?.entry ?? null
    const isUsable = entry !== null && isFresh(entry, now()) && entry.requested_at > purgedAt
    if (isUsable && !work.forced) return { role: 'late', entry }
    // A prompt's last answer may also have been stored by the flight of another version of its page.
    const looksAgain = now() < this.#knowsAllAt || work.source !== null || work.kvIsUnsure
    const miss = new Miss(work, { stream, keepGoing, purgedAt, looksAgain }, this.#context)
    this.#running.set(key, miss)
    miss.flight.over.then(() => this.#release(key, miss))
    return { role: 'leader', miss }
  }

  /** The entry may be another page's with the same text, or an earlier version of this page. */
  #late(work: SharedWork, entry: Entry): MissAnswer {
    const own = entryFor(work, entry)
    if (work.source !== null) this.#context.storeCopy(own)
    return wholeAnswer('late', own, own, true, NOTHING_SENT)
  }

  async #copyWhenOver(work: SharedWork, miss: Miss): Promise<void> {
    await miss.flight.over
    if (miss.entry !== null) this.#context.storeCopy(entryFor(work, miss.entry))
  }

  #release(key: string, miss: Miss): void {
    if (miss !== this.#running.get(key)) return
    this.#running.delete(key)
    const { entry } = miss
    if (entry !== null) this.#finished.set(key, { entry, at: this.#context.now() })
  }
}

/** The answer of a flight, and when it was stored, in unix ms. */
interface FinishedFlight {
  readonly entry: Entry
  readonly at: number
}

/** Where a reader gets its answer: from a flight, or from the entry of the last one. */
type Place =
  | { readonly role: 'leader' | 'follower'; readonly miss: Miss }
  | { readonly role: 'late'; readonly entry: Entry }

/** Whether a follower must not share this result: its leader's own limit, or an answer from KV. */
function isForLeaderOnly(answer: MissAnswer, leader: Work, own: Work): boolean {
  if (answer.kind === 'problem') {
    const { rateLimit } = answer.problem
    return leader.visitor !== own.visitor && rateLimit !== null && PERSONAL.has(rateLimit.policy)
  }
  return own.forced && answer.kind !== 'left' && answer.role === 'found'
}

/** Limits that apply to a single visitor (budget/budget.ts). */
const PERSONAL: ReadonlySet<string> = new Set(['visitor', 'streams'])
