// Worker entry point: reads the bindings, builds the app once per isolate, exports the Durable
// Objects.

import type { SpendLimit } from './access/rate-limit.ts'
import type { App } from './app.ts'
import type { FlightClient } from './flight/client.ts'
import type { FlightObject } from './objects/flight.ts'
import {
  binding,
  countRequest,
  environment,
  flushUsage,
  ledger,
  newUuid,
  now,
  report,
  secret,
  usageObject,
  waitUntil,
} from './objects/platform.ts'
import { createApp, createBrokenApp } from './service.ts'

export { FlightObject } from './objects/flight.ts'
export { LedgerObject } from './objects/ledger.ts'
export { UsageObject } from './objects/usage.ts'

let app: App | null = null

export default {
  async fetch(request: Request): Promise<Response> {
    app ??= create()
    return await app.fetch(request)
  },
}

function create(): App {
  const context = { now, report, waitUntil, newUuid, count: countRequest }
  const known = environment()
  const secrets = {
    turnstileSecret: secret('TURNSTILE_SECRET') ?? '',
    operatorToken: secret('OPERATOR_TOKEN') ?? '',
  }
  if (known.config === null) return createBrokenApp(known.result, secrets, context)
  const { config, core, platform } = known
  const bindings = {
    flights: config.cache.flights === 'global' ? flightClient : null,
    spendLimit,
    admin: {
      pause: async (until: number | null) => await ledger().pause(until),
      figures: async () => await ledger().figures(),
      usage: async (fromHour: number) => {
        // So that the figures include this isolate's latest requests.
        await flushUsage()
        return await usageObject().figures(fromHour)
      },
    },
    ...secrets,
  }
  return createApp(config, core, platform, bindings, context)
}

/** The platform's rate limit: approximate and counted per location, but free. */
const spendLimit: SpendLimit = async (visitor) => {
  const { success } = await binding<RateLimit>('SPEND_LIMIT').limit({ key: visitor })
  return success
}

/** One object per cache key, created near its first visitor. */
const flightClient: FlightClient = {
  join: async (work, reader) => await flight(work.key).join(work, reader),
  pipe: () => new IdentityTransformStream(),
  refresh: async (work) => await flight(work.key).refresh(work),
}

function flight(key: string): DurableObjectStub<FlightObject> {
  return binding<DurableObjectNamespace<FlightObject>>('FLIGHTS').getByName(key)
}
