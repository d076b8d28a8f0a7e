// The Durable Object in which identical requests meet: one for each cache key, wherever they come
// from. A thin shell: the load, its readers and what they get are cache/flight.ts, miss.ts and
// key-flights.ts. Stores nothing of its own; evicted, it forgets what KV has anyway.
import { DurableObject } from 'cloudflare:workers'
import type { Reader } from '../answer.ts'
import { KeyFlights } from '../key-flights.ts'
import type { MissAnswer, SharedWork } from '../miss.ts'
import { environment } from './environment.ts'

export class FlightObject extends DurableObject {
  #flights: KeyFlights | null = null

  /** One reader's answer. */
  async join(work: SharedWork, reader: Reader): Promise<MissAnswer> {
    const left = new AbortController()
    if (work.presence !== null) untilOver(work.presence).then(() => left.abort())
    return await this.#open().join(work, reader, left)
  }

  /** Starts a load that nobody waits for, unless one is under way. */
  async refresh(work: SharedWork): Promise<void> {
    this.#open().refresh(work)
  }

  #open(): KeyFlights {
    const known = environment()
    if (known.config === null) throw new TypeError('misconfigured')
    this.#flights ??= new KeyFlights(known.core.miss)
    return this.#flights
  }
}

/** Until a stream without bytes ends, or breaks with the connection it came on. */
async function untilOver(stream: ReadableStream<Uint8Array>): Promise<void> {
  const reader = stream.getReader()
  try {
    while (!(await reader.read()).done);
  } catch {
    // Broken is over, too.
  }
}
