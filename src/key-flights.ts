// One key's loads, one after another: who joins the one under way, who is served by the one just over,
// who begins a new one, and whose answer is no good for another visitor. objects/flight.ts runs it.
import { Ending, type Reader } from './answer.ts'
import { type Entry, freshness } from './cache/entry.ts'
import { entryFor, type Work } from './generate.ts'
import {
  KEEP_ALIVE_MS,
  type MissAnswer,
  type MissContext,
  SharedMiss,
  type SharedWork,
  stopsWithReaders,
} from './miss.ts'

/** How often a reader whose flight was no good for it boards another one, at most. */
const MAX_BOARDINGS = 3

export class KeyFlights {
  readonly #context: MissContext
  #miss: SharedMiss | null = null
  /** What the last load brought; all else of it is let go. */
  #landed: Entry | null = null

  constructor(context: MissContext) {
    this.#context = context
  }

  /**
   * One reader's answer: of the load under way, of the one just over, or of a new one. Never throws.
   *
   * @param left aborted when the reader has gone
   */
  async join(work: SharedWork, reader: Reader, left: AbortController): Promise<MissAnswer> {
    for (let boardings = 1; ; boardings++) {
      const boarding = this.#board(work, reader.shape.stream, !stopsWithReaders(work))
      if (boarding.role === 'late') return this.#late(work, boarding.entry)
      const { miss, role } = boarding
      if (miss.work.storedUnder !== work.storedUnder) this.#copyWhenLanded(work, miss)
      const ending = reader.shape.stream ? new Ending() : null
      const answer = await miss.board(reader, { role, left, onEnd: (end) => ending?.tell(end) })
      const enough = role === 'leader' || boardings === MAX_BOARDINGS
      if (!enough && isForOthers(answer, miss.work, work)) continue
      if (answer.kind === 'stream') return { ...answer, ending: ending?.stream ?? null }
      if (answer.kind !== 'whole' || answer.entry === null) return answer
      return { ...answer, entry: entryFor(work, answer.entry) }
    }
  }

  /** Begins a load that nobody waits for, unless one is under way or just over. It is finished always. */
  refresh(work: SharedWork): void {
    this.#board(work, false, true)
  }

  #board(work: SharedWork, stream: boolean, keepGoing: boolean): Boarding {
    const purgedAt = Math.max(work.purgedAt, this.#context.purgedAt(work))
    const current = this.#miss
    if (current?.flight.state === 'flying' && current.serves(work, purgedAt)) {
      return { role: 'follower', miss: current }
    }
    const entry = current?.entry ?? this.#landed
    const nowS = Math.floor(this.#context.now() / 1000)
    const atHand =
      entry !== null && freshness(entry, nowS) === 'fresh' && entry.requested_at > purgedAt
    if (atHand && !work.forced) return { role: 'late', entry }
    const options = { keepAliveMs: KEEP_ALIVE_MS, keepGoing, purgedAt }
    const miss = new SharedMiss(work, stream, options, this.#context)
    this.#miss = miss
    this.#landed = null
    miss.flight.over.then(() => this.#landing(miss))
    return { role: 'leader', miss }
  }

  /** It may be another page's of the same text, or this page's before it was changed and back. */
  #late(work: SharedWork, entry: Entry): MissAnswer {
    const own = entryFor(work, entry)
    if (work.source !== null) this.#context.storeCopy(own)
    return lateAnswer(own)
  }

  async #copyWhenLanded(work: SharedWork, miss: SharedMiss): Promise<void> {
    await miss.flight.over
    if (miss.entry !== null) this.#context.storeCopy(entryFor(work, miss.entry))
  }

  #landing(miss: SharedMiss): void {
    if (miss !== this.#miss) return
    this.#miss = null
    this.#landed = miss.entry
  }
}

type Boarding =
  | { readonly role: 'leader' | 'follower'; readonly miss: SharedMiss }
  | { readonly role: 'late'; readonly entry: Entry }

/** What a follower must not take from its leader: an old answer, or what only the leader may not. */
function isForOthers(answer: MissAnswer, leader: Work, own: Work): boolean {
  if (answer.kind === 'problem') {
    const { rateLimit } = answer.problem
    return leader.visitor !== own.visitor && rateLimit !== null && PERSONAL.has(rateLimit.policy)
  }
  return own.forced && answer.kind !== 'left' && answer.role === 'found'
}

/** Limits of one visitor's own (access/ledger.ts). */
const PERSONAL: ReadonlySet<string> = new Set(['visitor', 'streams'])

/** A remembered entry as a miss's answer: for a reader who came after the landing. */
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
