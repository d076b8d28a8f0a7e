// The smallest possible Worker, with empty versions of our objects.
import { DurableObject } from 'cloudflare:workers'

export class FlightObject extends DurableObject {}
export class LedgerObject extends DurableObject {}
export class SiteObject extends DurableObject {}
export class UsageObject extends DurableObject {}

export default { fetch: () => new Response('ok') }
