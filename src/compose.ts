// Shared by the Worker and the flight object: connections to the upstreams, cache tiers, access and
// the context of a generation. Platform APIs are passed in.

import { Operator } from './access/operator.ts'
import { Visitors } from './access/visitor.ts'
import { type VisitorTokenContext, VisitorTokens } from './access/visitor-token.ts'
import { VisitorIdentifier } from './access/visitors.ts'
import { Ledger, type LedgerClient } from './budget/ledger.ts'
import { type Entry, sourceKey } from './cache/entry.ts'
import { type KvNamespace, KvTier } from './cache/kv.ts'
import { MemoryTier } from './cache/memory.ts'
import { type PurgeClient, Purges } from './cache/purge.ts'
import { TieredCache } from './cache/store.ts'
import { randomLetters } from './completion/completion.ts'
import { type Config, priceAt } from './config/config.ts'
import { createDemo } from './demo/server.ts'
import type { Report } from './events.ts'
import type { MissContext } from './flight/miss.ts'
import { Pages } from './page/store.ts'
import type { Connection } from './upstream/attempt.ts'
import { GATHER_MS } from './upstream/body.ts'
import type { Send } from './upstream/call.ts'
import { connect } from './upstream/connection.ts'
import { CALLS_AT_ONCE } from './upstream/merge.ts'
import { type AiBinding, sendToBinding } from './upstream/workers-ai.ts'

/** The platform APIs that the service uses. */
export interface Platform {
  readonly kv: KvNamespace
  readonly fetch: Send
  /** Absent if the Worker has no such binding. */
  readonly ai?: AiBinding | null
  /** Reads a static file of dist/site. Rejects if that fails. */
  readonly readFile: (name: string) => Promise<string>
  readonly now: () => number
  /** 0 … 1 */
  readonly random: () => number
  readonly randomBytes: (bytes: Uint8Array) => void
  readonly newUuid: () => string
  readonly wait: (ms: number, signal: AbortSignal) => Promise<void>
  readonly waitUntil: (work: Promise<unknown>) => void
  readonly report: Report
  readonly ledger: LedgerClient
  readonly purges: PurgeClient
  /** The secret that visitors' addresses are hashed with. */
  readonly secret: () => Promise<string>
  readonly operatorToken: string | null
  /** The secrets that visitor tokens are signed with. */
  readonly tokenSecrets: VisitorTokenContext
}

export interface Core {
  readonly cache: TieredCache
  readonly purges: Purges
  readonly pages: Pages
  readonly connections: ReadonlyMap<string, Connection>
  readonly identifier: VisitorIdentifier
  /** Null: Turnstile is off. */
  readonly tokens: VisitorTokens | null
  readonly operator: Operator
  readonly miss: MissContext
}

/** Reserves one of the day's KV writes without a call; false if the budget has no more. */
async function takeKvWrite(ledger: Ledger): Promise<boolean> {
  const nothing = { input: 0, output: 0, price: null, routePrices: [] }
  try {
    const lease = await ledger.reserve({ ...nothing, visitor: null, leaseMs: 0, stores: true })
    lease.settle({ usage: null, chars: 0 })
    return lease.mayStore
  } catch {
    return false
  }
}

export function createCore(config: Config, platform: Platform): Core {
  const { now, random, randomBytes, wait, waitUntil, report } = platform
  const { cache: settings } = config
  const demo = createDemo({ wait, now, random, readText: () => platform.readFile('demo-text.txt') })
  const transports = {
    http: platform.fetch,
    demo,
    ...(platform.ai ? { ai: sendToBinding(platform.ai) } : {}),
  }
  const connections = new Map(
    [...config.upstreams].map(([name, upstream]) => [
      name,
      connect({ ...upstream, gatherMs: GATHER_MS }, transports),
    ]),
  )
  const purges = new Purges(
    platform.kv,
    { intervalMs: settings.memory_seconds * 1000 },
    { register: platform.purges, now, report, waitUntil },
  )
  const cache = new TieredCache(
    new MemoryTier(
      { maxBytes: settings.memory_bytes, maxAgeMs: settings.memory_seconds * 1000 },
      now,
    ),
    new KvTier(
      platform.kv,
      { waitMs: settings.kv_wait_ms, entryBytes: settings.entry_bytes },
      { now, report, waitUntil },
    ),
    purges,
  )
  const newId = () => randomLetters(24, randomBytes)
  const ledger = new Ledger({
    client: platform.ledger,
    newId,
    wait,
    random,
    waitUntil,
    report,
  })
  const pages = new Pages({
    fetch: platform.fetch,
    purgedAt: (names) => purges.purgedAt(names),
    now,
  })
  const storeCopy = (entry: Entry) =>
    waitUntil(
      (async () => {
        const found = await cache.get(entry.key)
        if (found?.cached.entry.completion.id === entry.completion.id) return
        // Copies count against the day's KV writes, too.
        const mayWrite = settings.kv_writes_per_day === 0 || (await takeKvWrite(ledger))
        cache.put(entry, mayWrite)
      })(),
    )
  const tokens =
    config.access.turnstile_sitekey === ''
      ? null
      : new VisitorTokens({ tokenSeconds: config.access.token_seconds }, platform.tokenSecrets)
  const identifier = new VisitorIdentifier({ visitors: new Visitors(platform.secret), tokens, now })
  const miss: MissContext = {
    now,
    report,
    purgedAt: ({ names }) => purges.purgedAt(names),
    storeCopy,
    generate: (work, stream, signal) => {
      let mayStore = false
      return {
        route: {
          requestId: work.requestId,
          connections,
          stream,
          signal,
          now,
          random,
          wait,
          report,
          // A request must not exceed its visitor's stream limit by itself.
          callsAtOnce: Math.min(CALLS_AT_ONCE, config.budget.streams_per_visitor),
          abandon: work.abandon,
          reserve: async (extent, target) => {
            const model = config.models.get(work.request.model)
            const lease = await ledger.reserve({
              ...extent,
              price: model === undefined ? null : priceAt(model, target),
              routePrices: model?.prices ?? [],
              visitor: work.visitor,
              leaseMs: config.upstreams.get(target.upstream)?.deadlineMs ?? 0,
              stores: work.lifetime !== null,
            })
            mayStore ||= lease.mayStore
            return lease
          },
        },
        newId: () => `cmpl-${randomLetters(28, randomBytes)}`,
        recheckKv: async ({ storedUnder, key, source }) => {
          const entry = await cache.fromKv(storedUnder)
          if (entry !== null && sourceKey(entry) === key) return entry
          // It may have been stored before the prompt had last answers.
          return source === null ? null : await cache.fromKv(key)
        },
        storeCopy,
        store: (entry) => cache.put(entry, mayStore),
      }
    },
  }
  const operator = new Operator(platform.operatorToken)
  return { cache, purges, pages, connections, identifier, tokens, operator, miss }
}
