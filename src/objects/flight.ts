// The Durable Object in which identical requests meet: one for each cache key, wherever they come
// from. A thin shell: the load, its readers and what they get are cache/flight.ts, miss.ts and
// key-flights.ts. Stores nothing of its own; evicted, it forgets what KV has anyway. One more object
// of the class, "purges", is where purges are written down (cache/purge-register.ts): it stores their
// list under "purge", for ever.
import { DurableObject } from 'cloudflare:workers'
import type { Reader } from '../answer.ts'
import type { KvNamespace } from '../cache/kv.ts'
import type { Purge } from '../cache/purge-list.ts'
import { PurgeRegister } from '../cache/purge-register.ts'
import { KeyFlights } from '../key-flights.ts'
import type { MissAnswer, SharedWork } from '../miss.ts'
import { binding, environment, now } from './environment.ts'

export class FlightObject extends DurableObject {
  #flights: KeyFlights | null = null
  #purges: PurgeRegister | null = null

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

  /** Writes down what the operator has purged. @returns the list with it, as its text */
  async purge(purge: Purge): Promise<string> {
    this.#purges ??= new PurgeRegister({
      storage: this.ctx.storage,
      kv: binding<KvNamespace>('CACHE'),
      now,
    })
    return await this.#purges.add(purge)
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
