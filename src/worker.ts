// The shell: env → configuration → dependencies → app. Exports the Durable Objects.
import { App, type Service } from './app.ts'
import { requestParser } from './completion/request.ts'
import type { Config } from './config.ts'
import type { Core } from './core.ts'
import {
  binding,
  countRequest,
  environment,
  flushUsage,
  ledger,
  now,
  randomBytes,
  report,
  usageObject,
  waitUntil,
} from './objects/environment.ts'
import type { FlightObject } from './objects/flight.ts'
import { Admin } from './routes/admin.ts'
import { Completions, type SpendLimit } from './routes/completions.ts'
import { type FlightDoor, Misses } from './routes/misses.ts'

export { FlightObject } from './objects/flight.ts'
export { LedgerObject } from './objects/ledger.ts'
export { UsageObject } from './objects/usage.ts'

let app: App | null = null

export default {
  async fetch(request: Request): Promise<Response> {
    app ??= createApp()
    return await app.fetch(request)
  },
}

function createApp(): App {
  const context = { now, report, waitUntil, randomBytes, count: countRequest }
  const { config, ...rest } = environment()
  if (config === null || !('core' in rest)) {
    const { origins, faults } = 'result' in rest ? rest.result : { origins: [], faults: [] }
    return new App({ origins, originRequired: false, warnings: [] }, context, { faults })
  }
  const { origins, originRequired } = config
  return new App(
    { origins, originRequired, warnings: [] },
    context,
    createService(config, rest.core),
  )
}

function createService(config: Config, core: Core): Service {
  const { limits, cache, models, upstreams, prompts, defaults, freePrompts } = config
  const door = cache.flights === 'global' ? flightDoor() : null
  const body = { maxBytes: limits.body_bytes, deadlineMs: limits.body_ms }
  const completions = new Completions(
    {
      body,
      effective: { models, prompts, freePrompts, defaults, variableChars: limits.prompt_chars },
      key: {
        version: cache.version,
        addresses: new Map(
          [...upstreams].map(([name, { wire, baseUrl }]) => [name, `${wire} ${baseUrl}`]),
        ),
      },
      cache: {
        ttlSeconds: cache.ttl_seconds,
        staleWhileRevalidateSeconds: cache.stale_while_revalidate_seconds,
        staleIfErrorSeconds: cache.stale_if_error_seconds,
        browserSeconds: cache.browser_seconds,
        freePrompts: cache.free_prompts,
      },
      prompts,
    },
    {
      parse: requestParser(limits),
      cache: core.cache,
      misses: new Misses(door, core.miss),
      visitors: core.visitors,
      operator: core.operator,
      spendLimit: spendLimit(),
      connections: core.connections,
      now,
    },
  )
  const admin = new Admin(body, {
    operator: core.operator,
    purges: core.purges,
    keyOf: (request) => completions.keyOf(request),
    now,
    pause: async (until) => await ledger().pause(until),
    figures: async () => await ledger().figures(),
    hoursSince: async (hour) => {
      // So that the operator sees at least what this isolate knows.
      await flushUsage()
      return await usageObject().since(hour)
    },
  })
  return { faults: null, completions, admin, operator: core.operator, offer: { models, prompts } }
}

/** The platform's rate limit: roughly right, in each place for itself, and free. */
function spendLimit(): SpendLimit {
  return async (visitor) => {
    const { success } = await binding<RateLimit>('SPEND_LIMIT').limit({ key: visitor })
    return success
  }
}

/** One object for each cache key; near the visitor who was first. */
function flightDoor(): FlightDoor {
  const flights = binding<DurableObjectNamespace<FlightObject>>('FLIGHTS')
  return {
    join: async (work, reader) => await flights.getByName(work.key).join(work, reader),
    refresh: async (work) => await flights.getByName(work.key).refresh(work),
  }
}
