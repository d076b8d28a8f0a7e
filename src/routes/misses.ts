// Where a miss is answered: by the key's flight, shared by all visitors of the world, or in this
// isolate alone (`flights = "none"`, a visitor's `no-store`, or the flight out of reach).
import { type Reader, relay, type StreamEnd } from '../answer.ts'
import type { Problem } from '../errors.ts'
import type { Report } from '../events.ts'
import type { Work } from '../generate.ts'
import { KEEP_ALIVE_MS, type MissAnswer, type MissContext, SharedMiss } from '../miss.ts'

/** The way to a key's flight. */
export interface FlightDoor {
  join(work: Work, reader: Reader): Promise<MissAnswer>
  refresh(work: Work): Promise<void>
}

/** What the caller wants to know of a reader. */
export interface Boarded {
  readonly left: AbortController
  readonly onEnd: (end: StreamEnd, answer: MissAnswer) => void
}

const broken: Problem = {
  code: 'upstream_truncated',
  message: 'Cannot finish the answer: the connection to it was lost, ask again to go on',
  param: null,
  retryAfterSeconds: null,
  rateLimit: null,
}

export class Misses {
  readonly #door: FlightDoor | null
  readonly #context: MissContext
  readonly #report: Report

  /** @param door null: every miss is answered here */
  constructor(door: FlightDoor | null, context: MissContext) {
    this.#door = door
    this.#context = context
    this.#report = context.report
  }

  /** @param alone the answer must not be shared */
  async answer(work: Work, reader: Reader, boarded: Boarded, alone: boolean): Promise<MissAnswer> {
    if (this.#door === null || alone) return await this.#alone(work, reader, boarded)
    let answer: MissAnswer
    try {
      answer = await this.#door.join(work, reader)
    } catch {
      this.#report({ event: 'flight_unreachable', request_id: work.requestId })
      return await this.#alone(work, reader, boarded)
    }
    if (answer.kind !== 'stream') return answer
    const body = relay(answer.body, reader.shape, broken, (end) => boarded.onEnd(end, answer))
    return { ...answer, body }
  }

  /** Gets a newer answer, with nobody waiting. Never throws. */
  async refresh(work: Work): Promise<void> {
    try {
      if (this.#door !== null) return await this.#door.refresh(work)
    } catch {
      this.#report({ event: 'flight_unreachable', request_id: work.requestId })
    }
    await new SharedMiss(work, false, ALONE, this.#context).flight.over
  }

  async #alone(work: Work, reader: Reader, { left, onEnd }: Boarded): Promise<MissAnswer> {
    const miss = new SharedMiss(work, reader.shape.stream, ALONE, this.#context)
    const answer = await miss.board(reader, {
      role: 'leader',
      left,
      onEnd: (end) => onEnd(end, { ...answer, summary: miss.summary }),
    })
    return answer
  }
}

/** Without an object nothing goes on after its visitor. */
const ALONE = { keepAliveMs: KEEP_ALIVE_MS, keepGoing: false }
