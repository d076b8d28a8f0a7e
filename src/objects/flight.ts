// The Durable Object that merges identical requests from all locations, one object for each cache
// key. The flights themselves are in flight/flights.ts and flight/flight.ts. These objects store
// nothing: answers are in KV. One more object of this class, named "purges", stores the list of
// purges (cache/purge-register.ts).
import { DurableObject } from 'cloudflare:workers'
import type { KvNamespace } from '../cache/kv.ts'
import type { Purge } from '../cache/purge-list.ts'
import { PurgeRegister } from '../cache/purge-register.ts'
import type { Reader } from '../completion/encode.ts'
import { KeyFlights, type MissAnswer, type SharedWork } from '../flight/flights.ts'
import { binding, gateway, now } from './platform.ts'

export class FlightObject extends DurableObject {
  #flights: KeyFlights | null = null
  #purges: PurgeRegister | null = null

  /** Joins the flight of this key, or starts one. */
  async join(work: SharedWork, reader: Reader): Promise<MissAnswer> {
    const left = new AbortController()
    if (work.presence !== null) streamEnd(work.presence).then(() => left.abort())
    return await this.#open().join(work, reader, left)
  }

  /** Starts a flight in the background, unless one is running. */
  async refresh(work: SharedWork): Promise<void> {
    this.#open().refresh(work)
  }

  /** Records a purge. @returns the list of purges, serialised */
  async purge(purge: Purge): Promise<string> {
    this.#purges ??= new PurgeRegister({
      storage: this.ctx.storage,
      kv: binding<KvNamespace>('CACHE'),
      now,
    })
    return await this.#purges.add(purge)
  }

  #open(): KeyFlights {
    const { miss } = gateway()
    if (miss === null) throw new TypeError('misconfigured')
    this.#flights ??= new KeyFlights(miss)
    return this.#flights
  }
}

/** Resolves when a stream ends, or fails because its connection was lost. */
async function streamEnd(stream: ReadableStream<Uint8Array>): Promise<void> {
  const reader = stream.getReader()
  try {
    while (!(await reader.read()).done);
  } catch {
    // A lost connection ends the stream, too.
  }
}
