// The Durable Object in which identical requests meet: one for each cache key, wherever they come
// from. A thin shell: the load, its readers and what they get are cache/flight.ts and miss.ts.
// Stores nothing of its own; evicted, it forgets what KV has anyway.
import { DurableObject } from 'cloudflare:workers'
import type { Reader } from '../answer.ts'
import { type Entry, freshness } from '../cache/entry.ts'
import type { Core } from '../core.ts'
import type { Work } from '../generate.ts'
import { KEEP_ALIVE_MS, lateAnswer, type MissAnswer, SharedMiss } from '../miss.ts'
import { environment, now } from './environment.ts'

export class FlightObject extends DurableObject {
  #miss: SharedMiss | null = null

  /** One reader's answer: of the load under way, of the one just over, or of a new one. */
  async join(work: Work, reader: Reader): Promise<MissAnswer> {
    const core = coreOf()
    const boarding = this.#boarding(work, reader.shape.stream, core)
    if (boarding.role === 'late') return lateAnswer(boarding.entry)
    const { miss, role } = boarding
    return await miss.board(reader, { role, left: new AbortController() })
  }

  /** Starts a load that nobody waits for, unless one is under way. */
  async refresh(work: Work): Promise<void> {
    this.#boarding(work, false, coreOf())
  }

  #boarding(work: Work, stream: boolean, core: Core): Boarding {
    const current = this.#miss
    if (current?.flight.state === 'flying' && !this.#isVoid(current, core)) {
      return { role: 'follower', miss: current }
    }
    const entry = current?.entry ?? null
    const atHand =
      entry !== null && freshness(entry, nowS()) === 'fresh' && !core.cache.isVoid(entry)
    if (atHand && !work.forced) return { role: 'late', entry }
    const options = { keepAliveMs: KEEP_ALIVE_MS, keepGoing: work.keep !== null }
    this.#miss = new SharedMiss(work, stream, options, core.miss)
    return { role: 'leader', miss: this.#miss }
  }

  /** A load that began before a purge must serve nobody who asked after it. */
  #isVoid({ begunAtS, work }: SharedMiss, core: Core): boolean {
    const { model, prompt_id: promptId } = work.request
    return core.purges.isVoid({ key: work.key, model, promptId, begunAtS })
  }
}

type Boarding =
  | { readonly role: 'leader' | 'follower'; readonly miss: SharedMiss }
  | { readonly role: 'late'; readonly entry: Entry }

function nowS(): number {
  return Math.floor(now() / 1000)
}

function coreOf(): Core {
  const environmentNow = environment()
  if (environmentNow.config === null) throw new TypeError('misconfigured')
  return environmentNow.core
}
