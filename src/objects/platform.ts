// The platform that the Worker and the Durable Objects run on: clock, randomness, timers, bindings,
// secrets. Read once per isolate: all of them share one configuration and one composition.
import { env, waitUntil } from 'cloudflare:workers'
import type { VisitorLimit } from '../access/rate-limit.ts'
import { type LedgerClient, usd } from '../budget/ledger.ts'
import type { KvNamespace } from '../cache/kv.ts'
import { randomLetters } from '../completion/completion.ts'
import { compose, type Gateway, type Platform } from '../compose.ts'
import { type Config, parseConfig } from '../config/config.ts'
import { prompts } from '../config/prompts.ts'
import { inTime, wait } from '../deadline.ts'
import type { Event, RequestEvent } from '../events.ts'
import type { FetchObject } from '../flight/transport.ts'
import type { AiBinding } from '../upstream/workers-ai.ts'
import { type CallCharge, type RequestCounts, UsageCounter } from '../usage.ts'
import type { FlightObject } from './flight.ts'
import type { LedgerObject } from './ledger.ts'
import type { SiteObject } from './site.ts'
import type { UsageObject } from './usage.ts'

/** Bindings, variables and secrets, not yet validated. */
const bindings = env as unknown as Readonly<Record<string, unknown>>

let read: ({ readonly config: Config | null } & Gateway) | null = null

export function gateway() {
  read ??= readGateway()
  return read
}

/** A binding that parseConfig has checked for. */
export function binding<T>(name: string): T {
  return bindings[name] as T
}

function readGateway() {
  const result = parseConfig({
    config: bindings['CONFIG'],
    prompts,
    secret,
    bound,
  })
  const { config, faults } = result
  if (faults !== null) report({ event: 'misconfigured', faults })
  const keys = [...(config?.upstreams.values() ?? [])].map(({ key }) => key)
  const firstKey = keys.find((key) => key !== null)
  const known = secret('TOKEN_SECRET') || firstKey || null
  const platform: Platform = {
    kv: binding<KvNamespace>('CACHE'),
    fetch: (request) => fetch(request),
    ai: bound('AI') ? binding<AiBinding>('AI') : null,
    readFile,
    now,
    random: Math.random,
    randomBytes,
    newUuid,
    wait,
    waitUntil,
    report,
    ledger: ledgerClient,
    purges: { add: async (purge) => await flight('purges').purge(purge) },
    watch: {
      update: async (sighted) => await ledger().watch(sighted),
      read: async () => await ledger().watched(),
    },
    flights: config?.cache.flights === 'global' ? flights : null,
    pipe: () => new IdentityTransformStream(),
    spendLimit: limitOf('SPEND_LIMIT'),
    searchLimit: limitOf('SEARCH_LIMIT'),
    site,
    admin: {
      pause: async (until) => await ledger().pause(until),
      figures: async () => await ledger().figures(),
      usage: async (fromHour) => {
        // So that the figures include this isolate's latest requests.
        await flushUsage()
        return await usageObject().figures(fromHour)
      },
    },
    count,
    charge,
    // With neither a secret nor a key, the ledger generates one that all isolates share.
    secret: async () => known ?? (await sharedOrLocalSecret()),
    operatorToken: secret('OPERATOR_TOKEN') ?? '',
    turnstileSecret: secret('TURNSTILE_SECRET') ?? '',
    tokenSecrets: {
      secret: secret('TOKEN_SECRET') ?? null,
      previousSecret: secret('TOKEN_SECRET_PREVIOUS') ?? null,
      // Never generate one locally: other isolates could not verify its tokens.
      fallbackSecret: async () => firstKey ?? (await sharedSecret()),
      randomBytes,
    },
  }
  return { config, ...compose(result, platform) }
}

/** A fresh stub each time: a stub that has failed once stays broken. */
function ledger(): DurableObjectStub<LedgerObject> {
  return binding<DurableObjectNamespace<LedgerObject>>('LEDGER').getByName('ledger')
}

/** A flight object (flight/transport.ts, `objectOf`), or "purges", which holds the list of purges. */
function flight(name: string): DurableObjectStub<FlightObject> {
  return binding<DurableObjectNamespace<FlightObject>>('FLIGHTS').getByName(name)
}

const flights: FetchObject = async (name, request) => await flight(name).fetch(request)

/** The platform's rate limit: approximate and counted per location, but free. */
function limitOf(name: string): VisitorLimit {
  return async (visitor) => {
    const { success } = await binding<RateLimit>(name).limit({ key: visitor })
    return success
  }
}

function siteObject(): DurableObjectStub<SiteObject> {
  return binding<DurableObjectNamespace<SiteObject>>('SITE').getByName('site')
}

const site: Platform['site'] = {
  find: async (...args) => await siteObject().find(...args),
  version: async () => await siteObject().version(),
  page: async (name) => await siteObject().page(name),
  put: async (update) => await siteObject().put(update),
  remove: async (name) => await siteObject().remove(name),
  list: async () => await siteObject().list(),
}

/** Reads a static file: data that few requests need is not part of the bundle. */
async function readFile(name: string): Promise<string> {
  // The binding ignores the host.
  const response = await binding<Fetcher>('ASSETS').fetch(`https://assets.invalid/${name}`)
  if (!response.ok) {
    await response.body?.cancel()
    throw new Error(`HTTP ${response.status}`)
  }
  return await response.text()
}

/**
 * Cache hits must not fail because the ledger is down: this isolate then generates a secret, which
 * is used until the end of the day.
 */
async function sharedOrLocalSecret(): Promise<string> {
  try {
    return await sharedSecret()
  } catch {
    return randomLetters(43, randomBytes)
  }
}

const OWN_SECRET_MS = 1000

/** The secret that the ledger has generated. @throws Error if the ledger does not answer in time */
async function sharedSecret(): Promise<string> {
  const late = () => {
    throw new Error('too late')
  }
  return await inTime(OWN_SECRET_MS, ledger().ownSecret(), late)
}

const ledgerClient: LedgerClient = {
  reserve: async (request) => await ledger().reserve(request),
  settle: async (id, cost) => await ledger().settle(id, cost),
}

function bound(name: string): boolean {
  return typeof bindings[name] === 'object' && bindings[name] !== null
}

/** Trimmed: `echo … | wrangler secret put` stores a line break, too. */
export function secret(name: string): string | undefined {
  const value = bindings[name]
  return typeof value === 'string' ? value.trim() : undefined
}

export const now = () => Date.now()
const newUuid = () => crypto.randomUUID()
export const randomBytes = (bytes: Uint8Array) => crypto.getRandomValues(bytes)

/** Logs an event and counts it in the usage figures. */
export function report(event: Event): void {
  console.log(JSON.stringify(event))
  usage.observe(event)
  sendFigures()
}

/**
 * How often figures are sent. A flush is then always due before `waitUntil` ends, 30 s after the response.
 * https://developers.cloudflare.com/workers/runtime-apis/context/#waituntil
 */
const FLUSH_MS = 25_000
const WORK_AFTER_RESPONSE_MS = 30_000

const usage = new UsageCounter({
  now,
  intervalMs: FLUSH_MS,
  usdOf: (id, { prompt_tokens, completion_tokens }) => {
    const price = gateway().config?.models.get(id)?.price ?? null
    return usd(price, prompt_tokens, completion_tokens)
  },
})

/** A flush includes the requests of the next two seconds. */
const GATHER_MS = 2000
let flushingUntil = 0

/** Counts a request. */
function count(event: RequestEvent, counts: RequestCounts): void {
  usage.request(event, counts)
  sendFigures()
}

/** Counts what a call was charged. */
function charge(charge: CallCharge): void {
  usage.charge(charge)
  sendFigures()
}

/** Sends this isolate's figures in the background, at most once in 25 s. */
function sendFigures(): void {
  const dueInMs = usage.dueInMs
  if (now() < flushingUntil || dueInMs === null) return
  // If the runtime cancels this flush, another one may begin after that time.
  flushingUntil = now() + WORK_AFTER_RESPONSE_MS
  const gathered = wait(Math.max(GATHER_MS, dueInMs), new AbortController().signal)
  waitUntil(
    gathered.then(flushUsage).finally(() => {
      flushingUntil = 0
    }),
  )
}

/** Sends this isolate's figures to the usage object. Never throws. */
async function flushUsage(): Promise<void> {
  await usage.flush(async (report) => await usageObject().add(report))
}

function usageObject(): DurableObjectStub<UsageObject> {
  return binding<DurableObjectNamespace<UsageObject>>('USAGE').getByName('usage')
}

export { waitUntil }
