// Assembles the app: routes on top of the core. Platform APIs are passed in, so that tests can run
// the same app in process.

import type { SpendLimit } from './access/rate-limit.ts'
import { Turnstile } from './access/turnstile.ts'
import { App, type AppContext, type Service } from './app.ts'
import type { Core, Platform } from './compose.ts'
import type { Config, ConfigResult } from './config/config.ts'
import { publicFaultsOf, warningsOf } from './config/warnings.ts'
import { type FlightClient, Misses } from './flight/client.ts'
import { requestParser } from './request/schema.ts'
import { Admin, type AdminContext } from './routes/admin.ts'
import { Completions } from './routes/completions.ts'
import { Lookups } from './routes/lookups.ts'
import { OpenApi } from './routes/openapi-file.ts'
import { PageVariables } from './routes/page-variables.ts'
import { RequestResolver } from './routes/resolve.ts'
import { NewVisitors } from './routes/visitors.ts'

/** Bindings and secrets that the flight object does not need. */
export interface AppBindings {
  /** Null: every miss is answered in its own isolate. */
  readonly flights: FlightClient | null
  readonly spendLimit: SpendLimit
  readonly admin: Pick<AdminContext, 'pause' | 'figures' | 'usage'>
  readonly turnstileSecret: string
  readonly operatorToken: string
}

/** The app for a valid configuration. */
export function createApp(
  config: Config,
  core: Core,
  platform: Platform,
  bindings: AppBindings,
  context: AppContext,
): App {
  const { origins, originRequired } = config
  const warnings = warningsOf(config)
  const options = { origins, originRequired, warnings, publicFaults: publicFaultsOf(bindings) }
  return new App(options, context, createService(config, core, platform, bindings))
}

/** The app for an invalid configuration: every page can read the error. */
export function createBrokenApp(
  { origins, faults }: Extract<ConfigResult, { config: null }>,
  secrets: Pick<AppBindings, 'turnstileSecret' | 'operatorToken'>,
  context: AppContext,
): App {
  const publicFaults = publicFaultsOf(secrets)
  const options = { origins, originRequired: false, warnings: [], publicFaults }
  return new App(options, context, { faults })
}

function createService(
  config: Config,
  core: Core,
  platform: Platform,
  bindings: AppBindings,
): Service {
  const { limits, cache, models, upstreams, prompts, defaults, freePrompts } = config
  const { now, report } = platform
  const body = { maxBytes: limits.body_bytes, deadlineMs: limits.body_ms }
  const policy = {
    ttlSeconds: cache.ttl_seconds,
    staleWhileRevalidateSeconds: cache.stale_while_revalidate_seconds,
    staleIfErrorSeconds: cache.stale_if_error_seconds,
    staleSeconds: Math.max(cache.stale_while_revalidate_seconds, cache.stale_if_error_seconds),
    browserSeconds: cache.browser_seconds,
    freePrompts: cache.free_prompts,
  }
  const { spendLimit } = bindings
  const pageVariables = new PageVariables({ origins: config.origins, prompts }, core.pages)
  const resolver = new RequestResolver(
    {
      effective: { models, prompts, freePrompts, defaults, variableChars: limits.prompt_chars },
      key: {
        version: cache.version,
        addresses: new Map(
          [...upstreams].map(([name, { wire, baseUrl }]) => [name, `${wire} ${baseUrl}`]),
        ),
      },
      cache: policy,
      prompts,
      models,
    },
    {
      parse: requestParser(limits),
      identifier: core.identifier,
      operator: core.operator,
      connections: core.connections,
      pageVariables,
      report,
    },
  )
  const completions = new Completions(
    { body, cache: policy },
    {
      resolver,
      cache: core.cache,
      lookups: new Lookups({ cache: core.cache, pageVariables, spendLimit, report, now }),
      misses: new Misses(bindings.flights, core.miss),
      spendLimit,
      now,
    },
  )
  const { operator, purges } = core
  const admin = new Admin(body, {
    operator,
    purges,
    requestNames: (request) => resolver.purgeNames(request),
    models,
    prompts,
    origins: config.origins,
    now,
    ...bindings.admin,
  })
  const visitors = createVisitors(config, core, platform, bindings)
  const openApi = new OpenApi(
    { limits, freePrompts, turnstileSitekey: config.access.turnstile_sitekey },
    platform.readFile,
  )
  const catalog = { models, prompts }
  return { faults: null, completions, visitors, admin, operator, catalog, openApi }
}

function createVisitors(
  { limits, origins }: Config,
  { tokens }: Core,
  { fetch, now, wait, report, newUuid }: Platform,
  { turnstileSecret }: AppBindings,
): NewVisitors {
  const options = { bodyMs: limits.body_ms, origins }
  if (tokens === null) return new NewVisitors(options, null)
  const turnstile = new Turnstile(turnstileSecret, { fetch, now, wait, newUuid })
  const refused = (request_id: string, reason: string) =>
    report({ event: 'visitor_refused', request_id, reason })
  return new NewVisitors(options, { turnstile, tokens, now, refused })
}
