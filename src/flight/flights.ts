// The flights of one key, one at a time. Decides whether a reader joins the running flight, gets
// the answer of the last one, or starts a new one. objects/flight.ts runs it.

import { type Entry, isFresh } from '../cache/entry.ts'
import type { Reader } from '../completion/encode.ts'
import { entryFor, type Work } from './generate.ts'
import {
  type MissAnswer,
  type MissContext,
  SharedMiss,
  type SharedWork,
  stopsWithReaders,
} from './miss.ts'
import { Ending } from './stream.ts'

/** How many flights a reader joins at most if their results do not apply to it. */
const MAX_JOINS = 3

export class KeyFlights {
  readonly #context: MissContext
  #miss: SharedMiss | null = null
  /** The answer of the last flight; the rest of the flight is released. */
  #last: Entry | null = null

  constructor(context: MissContext) {
    this.#context = context
  }

  /**
   * Answers one reader from the running flight, the last one or a new one. Never throws.
   *
   * @param left aborted when the reader disconnects
   */
  async join(work: SharedWork, reader: Reader, left: AbortController): Promise<MissAnswer> {
    for (let joins = 1; ; joins++) {
      const place = this.#place(work, reader.shape.stream, !stopsWithReaders(work))
      if (place.role === 'late') return this.#late(work, place.entry)
      const { miss, role } = place
      if (miss.work.storedUnder !== work.storedUnder) this.#copyWhenOver(work, miss)
      const ending = reader.shape.stream ? new Ending() : null
      const answer = await miss.join(reader, { role, left, onEnd: (end) => ending?.tell(end) })
      const isLast = role === 'leader' || joins === MAX_JOINS
      if (!isLast && isForLeaderOnly(answer, miss.work, work)) continue
      if (answer.kind === 'stream') return { ...answer, ending: ending?.stream ?? null }
      if (answer.kind !== 'whole' || answer.entry === null) return answer
      return { ...answer, entry: entryFor(work, answer.entry) }
    }
  }

  /** Starts a flight without readers, unless there is one or its answer. It is always finished. */
  refresh(work: SharedWork): void {
    this.#place(work, false, true)
  }

  #place(work: SharedWork, stream: boolean, keepGoing: boolean): Place {
    const purgedAt = Math.max(work.purgedAt, this.#context.purgedAt(work))
    const current = this.#miss
    if (current?.flight.state === 'running' && current.serves(work, purgedAt)) {
      return { role: 'follower', miss: current }
    }
    const entry = current?.entry ?? this.#last
    const isUsable =
      entry !== null && isFresh(entry, this.#context.now()) && entry.requested_at > purgedAt
    if (isUsable && !work.forced) return { role: 'late', entry }
    const miss = new SharedMiss(work, stream, { keepGoing, purgedAt }, this.#context)
    this.#miss = miss
    this.#last = null
    miss.flight.over.then(() => this.#release(miss))
    return { role: 'leader', miss }
  }

  /** The entry may be another page's with the same text, or an earlier version of this page. */
  #late(work: SharedWork, entry: Entry): MissAnswer {
    const own = entryFor(work, entry)
    if (work.source !== null) this.#context.storeCopy(own)
    return lateAnswer(own)
  }

  async #copyWhenOver(work: SharedWork, miss: SharedMiss): Promise<void> {
    await miss.flight.over
    if (miss.entry !== null) this.#context.storeCopy(entryFor(work, miss.entry))
  }

  #release(miss: SharedMiss): void {
    if (miss !== this.#miss) return
    this.#miss = null
    this.#last = miss.entry
  }
}

/** Where a reader gets its answer: from a flight, or from the entry of the last one. */
type Place =
  | { readonly role: 'leader' | 'follower'; readonly miss: SharedMiss }
  | { readonly role: 'late'; readonly entry: Entry }

/** Whether a follower must not share this result: its leader's own limit, or an answer from KV. */
function isForLeaderOnly(answer: MissAnswer, leader: Work, own: Work): boolean {
  if (answer.kind === 'problem') {
    const { rateLimit } = answer.problem
    return leader.visitor !== own.visitor && rateLimit !== null && PERSONAL.has(rateLimit.policy)
  }
  return own.forced && answer.kind !== 'left' && answer.role === 'found'
}

/** Limits that apply to a single visitor (access/ledger.ts). */
const PERSONAL: ReadonlySet<string> = new Set(['visitor', 'streams'])

/** The answer from an entry, for a reader that came after the flight had finished. */
function lateAnswer(entry: Entry): MissAnswer {
  return {
    kind: 'whole',
    role: 'late',
    completion: entry.completion,
    estimated: entry.estimated,
    entry,
    stored: true,
    summary: { upstream: null, attempts: 0, usage: null },
  }
}
