// Worker entry point. The platform and the composition are read once per isolate.
import { gateway } from './objects/platform.ts'

export { FlightObject } from './objects/flight.ts'
export { LedgerObject } from './objects/ledger.ts'
export { SiteObject } from './objects/site.ts'
export { UsageObject } from './objects/usage.ts'

export default {
  async fetch(request: Request): Promise<Response> {
    return await gateway().app().fetch(request)
  },

  /** The daily cron of wrangler.toml. */
  async scheduled(): Promise<void> {
    await gateway().checkModels()
  },
}
