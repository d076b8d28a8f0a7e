// Builds everything from the configuration and the platform: the app, which the Worker serves, and
// the context of a generation, which the app and the flight objects share. Platform APIs are passed
// in, so that tests can run the same app in process.

import { operatorCheck } from './access/operator.ts'
import type { VisitorLimit } from './access/rate-limit.ts'
import { type TokenSecrets, VisitorTokens } from './access/visitor-token.ts'
import { Visitors } from './access/visitors.ts'
import { App, type Services } from './app.ts'
import { type LedgerClient, type LedgerDeps, reserve } from './budget/ledger.ts'
import { type Entry, prolonged } from './cache/entry.ts'
import { type KvNamespace, KvTier } from './cache/kv.ts'
import { type PurgeClient, Purges } from './cache/purge.ts'
import { TieredCache } from './cache/store.ts'
import { randomLetters } from './completion/completion.ts'
import type { Config, ConfigResult } from './config/config.ts'
import { priceAt } from './config/models.ts'
import { publicFaultsOf, warningsOf } from './config/warnings.ts'
import type { Wait } from './deadline.ts'
import { createDemo } from './demo/server.ts'
import { internalEvent } from './events.ts'
import { Misses } from './flight/client.ts'
import type { MissContext } from './flight/miss.ts'
import type { FetchObject } from './flight/transport.ts'
import { referencesOnce } from './html/references.ts'
import { Pages } from './page/store.ts'
import { chatParser } from './request/chat.ts'
import { requestParser } from './request/schema.ts'
import type { AdminDeps } from './routes/admin.ts'
import { Completions } from './routes/completions.ts'
import { Lookups } from './routes/lookups.ts'
import { openApiRoute } from './routes/openapi.ts'
import { PageVariables } from './routes/page-variables.ts'
import type { VisitContext } from './routes/request-log.ts'
import { RequestResolver } from './routes/resolve.ts'
import type { SiteClient } from './routes/site.ts'
import { Search, type SearchClient } from './search/search.ts'
import type { Send } from './upstream/call.ts'
import { type Connection, connect } from './upstream/connection.ts'
import { explaining } from './upstream/explain.ts'
import { hasList } from './upstream/model-list.ts'
import { CALLS_AT_ONCE } from './upstream/run-all.ts'
import { Sunset, type WatchStore } from './upstream/sunset.ts'
import { type AiBinding, sendToBinding } from './upstream/workers-ai.ts'
import type { CallCharge } from './usage.ts'

/** The platform APIs that the service uses. */
export interface Platform extends VisitContext {
  /** Counts what a call was charged, for the usage figures. */
  readonly charge: (charge: CallCharge) => void
  readonly kv: KvNamespace
  readonly fetch: Send
  /** Absent if the Worker has no such binding. */
  readonly ai?: AiBinding | null
  /** Reads a static file of dist/site. Rejects if that fails. */
  readonly readFile: (name: string) => Promise<string>
  /** 0 … 1 */
  readonly random: () => number
  readonly randomBytes: (bytes: Uint8Array) => void
  readonly newUuid: () => string
  readonly wait: Wait
  readonly ledger: LedgerClient
  readonly purges: PurgeClient
  /** What is known about the end of models. */
  readonly watch: WatchStore
  /** Null: every miss is answered in its own isolate. */
  readonly flights: FetchObject | null
  /** An identity transform. */
  readonly pipe: MissContext['pipe']
  readonly spendLimit: VisitorLimit
  readonly searchLimit: VisitorLimit
  /** The object with the index of the site. */
  readonly site: SearchClient & SiteClient
  /** The objects behind the operator's endpoints. */
  readonly admin: Pick<AdminDeps, 'pause' | 'figures' | 'usage'>
  /** The secret that visitors' addresses are hashed with. */
  readonly secret: () => Promise<string>
  /** "": operator endpoints are disabled. */
  readonly operatorToken: string
  readonly turnstileSecret: string
  /** The secrets that visitor tokens are signed with. */
  readonly tokenSecrets: TokenSecrets
}

export interface Gateway {
  /** What the Worker serves. It is built by the first call, since the Durable Objects do without it. */
  readonly app: () => App
  /** The context of the flights. Null: the configuration has faults. */
  readonly miss: MissContext | null
  /** The daily check whether the upstreams still have the configured models. */
  readonly checkModels: () => Promise<void>
}

/** With faults in the configuration, the app serves them to every page. */
export function compose(result: ConfigResult, platform: Platform): Gateway {
  if (result.config === null) {
    const { origins, faults } = result
    const publicFaults = publicFaultsOf(platform)
    const none = { originRequired: false, warnings: [], endings: async () => [], services: null }
    const app = once(() => new App({ ...platform, ...none, origins, faults, publicFaults }))
    return { app, miss: null, checkModels: async () => {} }
  }
  const { config } = result
  const parts = createParts(config, platform)
  const { miss, sunset } = parts
  const app = once(() => createApp(config, platform, parts))
  const checkModels = () =>
    sunset.check().catch((error) => platform.report(internalEvent(error, null)))
  return { app, miss, checkModels }
}

type Parts = ReturnType<typeof createParts>

function createApp(config: Config, platform: Platform, parts: Parts): App {
  const { origins, originRequired } = config
  const publicFaults = publicFaultsOf(platform)
  const services = createServices(config, platform, parts)
  const warnings = warningsOf(config)
  const endings = () => parts.sunset.warnings()
  const settings = { origins, originRequired, faults: [], publicFaults, warnings, endings }
  return new App({ ...platform, ...settings, services })
}

function once<T extends object>(create: () => T): () => T {
  let made: T | null = null
  return () => {
    made ??= create()
    return made
  }
}

/** How long an answer may be served after it is fresh. */
const staleSecondsOf = (settings: Config['cache']) =>
  Math.max(settings.stale_while_revalidate_seconds, settings.stale_if_error_seconds)

/** Reserves one of the day's KV writes without a call; false if the budget has no more. */
async function takeKvWrite(ledger: LedgerDeps): Promise<boolean> {
  const nothing = { input: 0, output: 0, price: null, routePrices: [] }
  try {
    const lease = await reserve({ ...nothing, visitor: null, leaseMs: 0, stores: true }, ledger)
    lease.settle({ usage: null, chars: 0 })
    return lease.mayStore
  } catch {
    return false
  }
}

/** Connections to the upstreams, cache tiers, access, and the context of a generation. */
function createParts(config: Config, platform: Platform) {
  const { now, random, randomBytes, wait, waitUntil, report } = platform
  const { cache: settings, models, upstreams, access } = config
  const demo = createDemo({ wait, now, random, readText: () => platform.readFile('demo-text.txt') })
  const transports = {
    http: platform.fetch,
    demo,
    ...(platform.ai ? { ai: sendToBinding(platform.ai) } : {}),
  }
  const connections = new Map(
    [...upstreams].map(([name, upstream]) => [name, connect(upstream, transports)]),
  )
  const memoryMs = settings.memory_seconds * 1000
  const purges = new Purges({ ...platform, intervalMs: memoryMs, register: platform.purges })
  const kv = new KvTier({
    ...platform,
    waitMs: settings.kv_wait_ms,
    entryBytes: settings.entry_bytes,
  })
  const cache = new TieredCache({
    kv,
    purges,
    memoryBytes: settings.memory_bytes,
    memoryMs,
    now,
  })
  const newId = () => randomLetters(24, randomBytes)
  /** For one request. */
  const openLedger = (): LedgerDeps => ({
    ...platform,
    client: platform.ledger,
    newId,
    settling: new Set(),
  })
  const references = referencesOnce(() => platform.readFile('references.txt'))
  const pages = new Pages({
    fetch: platform.fetch,
    references,
    purgedAt: (names) => purges.purgedAt(names),
    now,
  })
  /** Stores an entry that was not made by a call: such writes count against the day's, too. */
  const store = async (entry: Entry) => {
    const mayWrite = settings.kv_writes_per_day === 0 || (await takeKvWrite(openLedger()))
    cache.put(entry, mayWrite)
  }
  const storeCopy = (entry: Entry) =>
    waitUntil(
      (async () => {
        const found = await cache.get(entry.key)
        if (found?.cached.entry.completion.id !== entry.completion.id) await store(entry)
      })(),
    )
  const prolong = (entry: Entry) => {
    const longer = prolonged(entry, now(), staleSecondsOf(settings))
    if (longer !== null) waitUntil(store(longer))
  }
  const tokens =
    access.turnstile_sitekey === ''
      ? null
      : new VisitorTokens({ tokenSeconds: access.token_seconds, ...platform.tokenSecrets })
  const visitors = new Visitors({ secret: platform.secret, tokens, now })
  const reportHinted = explaining(platform)
  const miss: MissContext = {
    now,
    report,
    pipe: platform.pipe,
    purgedAt: ({ names }) => purges.purgedAt(names),
    kvIsUnsure: () => kv.isUnsure,
    storeCopy,
    generate: (work, stream, signal) => {
      let mayStore = false
      // However many calls it takes, an answer is written once.
      let needsWrite = work.lifetime !== null
      const ledger = openLedger()
      return {
        route: {
          requestId: work.requestId,
          connections,
          stream,
          signal,
          now,
          random,
          wait,
          report: reportHinted,
          // A request must not exceed its visitor's stream limit by itself.
          callsAtOnce: Math.min(CALLS_AT_ONCE, config.budget.streams_per_visitor),
          abandon: work.abandon,
          reserve: async (extent, target) => {
            const { model, prompt_id } = work.request
            const known = models.get(model)
            const stores = needsWrite
            needsWrite = false
            const lease = await reserve(
              {
                ...extent,
                price: known === undefined ? null : priceAt(known, target),
                routePrices: known?.prices ?? [],
                visitor: work.visitor,
                leaseMs: upstreams.get(target.upstream)?.deadlineMs ?? 0,
                stores,
                charge: (charge) =>
                  platform.charge({ model, prompt_id, origin: work.origin, ...charge }),
              },
              ledger,
            )
            mayStore ||= lease.mayStore
            return lease
          },
        },
        newId: () => `cmpl-${randomLetters(28, randomBytes)}`,
        recheckKv: async ({ storedUnder, key, source }) => {
          const entry = await cache.fromKv(storedUnder)
          if (entry !== null && (entry.source?.key ?? entry.key) === key) return entry
          // It may have been stored before the prompt had last answers.
          return source === null ? null : await cache.fromKv(key)
        },
        storeCopy,
        store: (entry) => cache.put(entry, mayStore),
      }
    },
  }
  const sunset = createSunset(config, platform, connections)
  return { cache, purges, pages, references, connections, visitors, tokens, miss, sunset, prolong }
}

function createSunset(
  { models, upstreams }: Config,
  { watch, now }: Platform,
  connections: ReadonlyMap<string, Connection>,
): Sunset {
  const lists = [...connections].flatMap(([name, { baseUrl, headers, send }]) => {
    const { wire } = upstreams.get(name) ?? { wire: 'demo' }
    return hasList(wire, baseUrl) ? [[name, { baseUrl, headers, send, wire }] as const] : []
  })
  return new Sunset({ models, lists: new Map(lists), store: watch, now })
}

/** What the routes of the app need. */
function createServices(config: Config, platform: Platform, parts: Parts): Services {
  const { limits, cache: settings, models, upstreams, prompts, defaults, freePrompts } = config
  const { origins, access } = config
  const { now, report, spendLimit } = platform
  const { cache, purges, pages, references, connections, visitors, tokens, miss, prolong } = parts
  const isOperator = operatorCheck(platform.operatorToken)
  const body = { maxBytes: limits.body_bytes, deadlineMs: limits.body_ms }
  const policy = {
    ttlSeconds: settings.ttl_seconds,
    staleWhileRevalidateSeconds: settings.stale_while_revalidate_seconds,
    staleIfErrorSeconds: settings.stale_if_error_seconds,
    staleSeconds: staleSecondsOf(settings),
    browserSeconds: settings.browser_seconds,
    freePrompts: settings.free_prompts,
  }
  const search = new Search({
    site: platform.site,
    origins,
    limit: platform.searchLimit,
    memoryMs: settings.memory_seconds * 1000,
    staleMs: settings.stale_if_error_seconds * 1000,
    purges,
    now,
  })
  const pageVariables = new PageVariables({ origins, prompts, pages })
  const resolver = new RequestResolver({
    effective: { models, prompts, freePrompts, defaults, variableChars: limits.prompt_chars },
    key: {
      version: settings.version,
      addresses: new Map(
        [...upstreams].map(([name, { wire, baseUrl }]) => [name, `${wire} ${baseUrl}`]),
      ),
    },
    policy,
    prompts,
    models,
    parse: requestParser(limits),
    parseChat: chatParser(limits, (id) => prompts.get(id)?.chat === true),
    limits,
    visitors,
    isOperator,
    connections,
    pageVariables,
    search,
    report,
  })
  const completions = new Completions({
    body,
    policy,
    resolver,
    cache,
    lookups: new Lookups({ cache, pageVariables, spendLimit, report, now }),
    misses: new Misses(platform.flights, miss),
    prolong,
    spendLimit,
    now,
  })
  return {
    completions,
    newVisitor: {
      turnstile: { ...platform, secret: platform.turnstileSecret },
      tokens,
      bodyMs: limits.body_ms,
      origins,
      now,
      report,
    },
    admin: {
      body,
      isOperator,
      purges,
      requestNames: (request, own) => resolver.purgeNames(request, own),
      models,
      prompts,
      origins,
      now,
      ...platform.admin,
    },
    search: {
      search,
      visitors,
      isOperator,
      browserSeconds: settings.browser_seconds,
      report,
    },
    site: {
      body,
      isOperator,
      site: platform.site,
      search,
      fetching: { fetch: platform.fetch, references },
      origins,
      settings: config.site,
      report,
      now,
    },
    isOperator,
    catalog: { models, prompts },
    openApi: openApiRoute(
      { limits, freePrompts, turnstileSitekey: access.turnstile_sitekey },
      platform.readFile,
    ),
  }
}
