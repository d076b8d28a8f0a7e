// The Durable Objects in which identical requests from all locations meet, each for many cache keys.
// The flights themselves are in flight/flights.ts and flight/flight.ts. These objects store nothing:
// answers are in KV. One more object of this class, named "purges", stores the list of purges
// (cache/purge-register.ts).
import { DurableObject } from 'cloudflare:workers'
import type { KvNamespace } from '../cache/kv.ts'
import type { Purge } from '../cache/purge-list.ts'
import { PurgeRegister } from '../cache/purge-register.ts'
import { Flights } from '../flight/flights.ts'
import { FlightServer } from '../flight/transport.ts'
import { binding, gateway, now } from './platform.ts'

export class FlightObject extends DurableObject {
  #server: FlightServer | null = null
  #purges: PurgeRegister | null = null

  override async fetch(request: Request): Promise<Response> {
    const { miss } = gateway()
    if (miss === null) throw new TypeError('misconfigured')
    this.#server ??= new FlightServer(new Flights(miss))
    return await this.#server.fetch(request)
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
}
