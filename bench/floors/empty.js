// The smallest Worker there is, with the objects of ours, which do nothing.
import { DurableObject } from 'cloudflare:workers'

export class FlightObject extends DurableObject {}
export class LedgerObject extends DurableObject {}
export class UsageObject extends DurableObject {}

export default { fetch: () => new Response('ok') }
