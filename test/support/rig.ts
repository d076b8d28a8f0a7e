// The built Worker on a platform that the test can break: the clock, the RPC calls to the ledger
// and the usage object, the rate limit and siteverify. Tests can read every stored row.
import { CANARY } from './canary.ts'
import { type Client, OPERATOR_TOKEN, type Reply } from './client.ts'
import { type JsonValue, startWorkers, type Workers, type WorkersOptions } from './workerd.ts'

/** How RPC calls to an object behave. */
type Behaviour = 'ok' | 'throws' | 'hangs'

interface Rigging {
  /** Milliseconds added to the clock of the Worker and its objects. */
  readonly clockMs?: number
  readonly ledger?: Behaviour
  readonly usage?: Behaviour
  readonly limit?: 'ok' | 'throws' | 'refuses'
}

export interface Figures {
  readonly now: number
  readonly budget: {
    readonly tokens_per_day: number
    readonly spent: number
    readonly reserved: number
    readonly above_reservations?: number
    readonly usd_per_day: number
    readonly usd_spent: number
    readonly paused_until: number | null
  }
  readonly days: readonly Readonly<Record<string, JsonValue>>[]
  readonly hours: readonly Readonly<Record<string, JsonValue>>[]
  readonly failures: readonly Readonly<Record<string, JsonValue>>[]
  readonly refused_origins: readonly { readonly origin: string; readonly count: number }[]
}

interface Rows {
  readonly days: readonly Readonly<Record<string, number>>[]
  /** Of all days. */
  readonly visitors: readonly { readonly visitor: string; readonly tokens: number }[]
  readonly settings: readonly { readonly name: string; readonly value: string }[]
  readonly hours: readonly { readonly hour: number; readonly counts: string }[]
  readonly lists: readonly { readonly name: string; readonly value: string }[]
}

export interface RiggedWorkers extends Workers {
  readonly rig: Rig
}

/** Like `startWorkers`, with an operator token and a rig. */
export async function startRigged(options: WorkersOptions = {}): Promise<RiggedWorkers> {
  const secrets = { UPSTREAM_API_KEY: CANARY, OPERATOR_TOKEN, ...options.secrets }
  const workers = await startWorkers({ ...options, secrets, main: MAIN })
  return { ...workers, rig: new Rig(workers.client()) }
}

class Rig {
  readonly #client: Client

  constructor(client: Client) {
    this.#client = client
  }

  async set(rigging: Rigging): Promise<void> {
    await this.#do(`set=${encodeURIComponent(JSON.stringify(rigging))}`)
  }

  /** Evicts the ledger object from memory, as the platform does when it is idle. */
  async evict(): Promise<void> {
    await this.#do('evict')
  }

  /** Calls of `add`, and the rows written and read by the ledger object, so far. */
  async counts(): Promise<{ flushes: number; written: number; read: number }> {
    return JSON.parse(await this.#do('counts'))
  }

  /** Calls an object's method directly. */
  async call(object: 'ledger' | 'usage', method: string, ...args: JsonValue[]): Promise<unknown> {
    const query = new URLSearchParams({ call: JSON.stringify([object, method, args]) })
    return JSON.parse(await this.#do(String(query)))
  }

  async rows(): Promise<Rows> {
    return JSON.parse(await this.#do('rows'))
  }

  /** `GET /admin/usage`, as the operator. */
  async figures(): Promise<Figures> {
    const reply = await this.admin('/admin/usage')
    if (reply.status !== 200) throw new Error(reply.text)
    return JSON.parse(reply.text)
  }

  async admin(path: string, body?: unknown): Promise<Reply> {
    const headers = { authorization: `Bearer ${OPERATOR_TOKEN}` }
    return await this.#client.send({
      path,
      headers,
      ...(body === undefined ? {} : { method: 'POST', body }),
    })
  }

  async #do(query: string): Promise<string> {
    const { status, text } = await this.#client.send({ path: `/__rig?${query}` })
    if (status !== 200) throw new Error(text)
    return text
  }
}

const MAIN = `
import { env } from 'cloudflare:workers'
import worker, { LedgerObject as Ledger, UsageObject as Usage } from './worker.js'
export { FlightObject, SiteObject } from './worker.js'

const rig = { clockMs: 0, ledger: 'ok', usage: 'ok', limit: 'ok' }
const counts = { flushes: 0 }
const cursors = []

const realNow = Date.now
Date.now = () => realNow() + rig.clockMs

const realFetch = globalThis.fetch
globalThis.fetch = (input, init) => {
  const request = new Request(input, init)
  const { hostname } = new URL(request.url)
  if (hostname !== 'challenges.cloudflare.com') return realFetch(request)
  return realFetch(new Request(env.SITEVERIFY, request))
}

async function behave(name, work) {
  switch (rig[name]) {
    case 'throws': throw new Error('words from inside')
    case 'hangs': return await new Promise(() => {})
  }
  return await work()
}

const namespaces = Object.getPrototypeOf(env.LEDGER)
const { getByName } = namespaces
namespaces.getByName = function (name) {
  const stub = getByName.call(this, name)
  if (name === 'usage') {
    return {
      add: (report) => { counts.flushes += 1; return behave('usage', () => stub.add(report)) },
      figures: (fromHour) => behave('usage', () => stub.figures(fromHour)),
    }
  }
  if (name !== 'ledger') return stub
  return {
    reserve: (request) => behave('ledger', () => stub.reserve(request)),
    settle: (id, cost) => stub.settle(id, cost),
    pause: (until) => behave('ledger', () => stub.pause(until)),
    figures: () => behave('ledger', () => stub.figures()),
    watch: (sighted) => behave('ledger', () => stub.watch(sighted)),
    watched: () => behave('ledger', () => stub.watched()),
    ownSecret: () => behave('ledger', () => stub.ownSecret()),
  }
}

const limits = Object.getPrototypeOf(env.SPEND_LIMIT)
const { limit } = limits
limits.limit = async function (given) {
  if (rig.limit === 'throws') throw new Error('words from inside')
  if (rig.limit === 'refuses') return { success: false }
  return await limit.call(this, given)
}

function watch(sql) {
  const prototype = Object.getPrototypeOf(sql)
  if (prototype.watched) return
  const { exec } = prototype
  prototype.watched = true
  prototype.exec = function (...args) {
    const cursor = exec.apply(this, args)
    cursors.push(cursor)
    return cursor
  }
}

function tablesOf(sql) {
  return [...sql.exec("SELECT name FROM sqlite_master WHERE type = 'table'")]
    .map(({ name }) => name)
}

function rowsOf(sql, table) {
  try {
    return [...sql.exec('SELECT * FROM ' + table)]
  } catch {
    return []
  }
}

export class LedgerObject extends Ledger {
  constructor(ctx, e) {
    super(ctx, e)
    watch(ctx.storage.sql)
  }
  evict() {
    this.ctx.abort('evicted')
  }
  rows() {
    const { sql } = this.ctx.storage
    const visitors = tablesOf(sql).filter((name) => name.startsWith('visitors_'))
    return {
      days: rowsOf(sql, 'days'),
      visitors: visitors.flatMap((name) => rowsOf(sql, name)),
      settings: rowsOf(sql, 'settings'),
    }
  }
  size() {
    return this.ctx.storage.sql.databaseSize
  }
  tables() {
    return tablesOf(this.ctx.storage.sql)
  }
  sql(query, ...values) {
    return [...this.ctx.storage.sql.exec(query, ...values)]
  }
  breakTable(table) {
    this.ctx.storage.sql.exec('ALTER TABLE ' + table + ' RENAME TO ' + table + '_gone')
  }
  repairTable(table) {
    this.ctx.storage.sql.exec('ALTER TABLE ' + table + '_gone RENAME TO ' + table)
  }
}

export class UsageObject extends Usage {
  rows() {
    const { sql } = this.ctx.storage
    return { hours: rowsOf(sql, 'hours'), lists: rowsOf(sql, 'lists') }
  }
  put(hour, counts) {
    this.ctx.storage.sql.exec('INSERT OR REPLACE INTO hours VALUES (?, ?)', hour, counts)
  }
}

const stubOf = (name) => getByName.call(name === 'ledger' ? env.LEDGER : env.USAGE, name)

async function control(query) {
  if (query.has('set')) Object.assign(rig, JSON.parse(query.get('set')))
  if (query.has('evict')) await stubOf('ledger').evict().catch(() => {})
  if (query.has('counts')) {
    const sum = (key) => cursors.reduce((all, cursor) => all + cursor[key], 0)
    return { ...counts, written: sum('rowsWritten'), read: sum('rowsRead') }
  }
  if (query.has('rows')) {
    return { ...(await stubOf('ledger').rows()), ...(await stubOf('usage').rows()) }
  }
  if (query.has('call')) {
    const [name, method, args] = JSON.parse(query.get('call'))
    return (await stubOf(name)[method](...args)) ?? null
  }
  return {}
}

export default {
  scheduled: (...given) => worker.scheduled(...given),
  async fetch(request, ...rest) {
    const { pathname, searchParams } = new URL(request.url)
    if (pathname !== '/__rig') return await worker.fetch(request, ...rest)
    try {
      return Response.json(await control(searchParams))
    } catch (error) {
      return new Response(String(error.stack), { status: 500 })
    }
  },
}
`
