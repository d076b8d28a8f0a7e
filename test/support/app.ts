// The gateway in process, built from the same parts as src/worker.ts, with scripted
// upstreams, an in-memory KV with the platform's limits, a settable clock and recorded events. The
// upstream key is the canary, and all output is searched for it.
import { readFileSync } from 'node:fs'
import { expect } from 'vitest'
import type { App } from '../../src/app.ts'
import type { Cost, Refusal, ReserveRequest } from '../../src/budget/budget.ts'
import type { LedgerClient } from '../../src/budget/ledger.ts'
import type { KvNamespace } from '../../src/cache/kv.ts'
import { PurgeRegister, type RegisterStorage } from '../../src/cache/purge-register.ts'
import { compose, type Platform } from '../../src/compose.ts'
import { parseConfig } from '../../src/config/config.ts'
import type { Event, RequestEvent } from '../../src/events.ts'
import type { MissContext } from '../../src/flight/miss.ts'
import type { FetchObject } from '../../src/flight/transport.ts'
import { type Ending, update, type Watch } from '../../src/upstream/sunset.ts'
import { bindingUrl } from '../../src/upstream/workers-ai.ts'
import type { CallCharge } from '../../src/usage.ts'
import { CANARY, recordOutput } from './canary.ts'
import {
  Client,
  IncomingResponse,
  OPERATOR_TOKEN,
  ORIGIN,
  type Reply as PlainReply,
  type SentRequest,
} from './client.ts'
import type { Gateway } from './gateway.ts'
import { memorySite } from './site.ts'
import { WorkerLog } from './worker-log.ts'

export const EDGE = 'https://edge.test'
/** 2026-01-01T00:00:00Z, in ms. */
export const START = 1_767_225_600_000

export interface Clock {
  ms: number
}

/** An in-memory KV that enforces the limits of Workers KV and throws as the platform does. */
export class MemoryKv implements KvNamespace {
  readonly values = new Map<string, { value: string; expiresAt: number; ttl: number }>()
  readonly deleted: string[] = []
  /** The key of every attempted write, in order. */
  readonly puts: string[] = []
  /** Called before each operation, to make it throw or wait. */
  intercept: (operation: 'get' | 'put' | 'delete') => void | Promise<void> = () => {}
  readonly #clock: Clock
  readonly #writtenAt = new Map<string, number>()

  constructor(clock: Clock) {
    this.#clock = clock
  }

  async get(key: string): Promise<string | null> {
    this.#check(key)
    await this.intercept('get')
    const found = this.values.get(key)
    return found !== undefined && this.#clock.ms < found.expiresAt ? found.value : null
  }

  async put(key: string, value: string, options?: { expirationTtl: number }): Promise<void> {
    this.#check(key)
    this.puts.push(key)
    recordOutput(key, value)
    const ttl = options?.expirationTtl ?? Number.POSITIVE_INFINITY
    if (options !== undefined && (!Number.isSafeInteger(ttl) || ttl < 60)) {
      throw new Error(`KV PUT failed: 400 Invalid expiration_ttl of ${ttl}`)
    }
    if (Buffer.byteLength(value) > 26_214_400) throw new Error('KV PUT failed: 413 too large')
    if (this.#clock.ms - (this.#writtenAt.get(key) ?? Number.NEGATIVE_INFINITY) < 1000) {
      throw new Error('KV PUT failed: 429 Too Many Requests')
    }
    await this.intercept('put')
    this.#writtenAt.set(key, this.#clock.ms)
    this.values.set(key, { value, expiresAt: this.#clock.ms + ttl * 1000, ttl })
  }

  async delete(key: string): Promise<void> {
    this.#check(key)
    await this.intercept('delete')
    this.deleted.push(key)
    this.values.delete(key)
  }

  #check(key: string): void {
    if (key === '' || key === '.' || key === '..' || Buffer.byteLength(key) > 512) {
      throw new Error('KV failed: 414 UTF-8 encoded length of key exceeds key length limit of 512')
    }
  }
}

/** The storage of a Durable Object. */
export function memoryStorage(): RegisterStorage {
  const values = new Map<string, string>()
  return {
    get: async (key) => values.get(key),
    put: async (key, value) => void values.set(key, value),
  }
}

/** A ledger that grants every reservation unless `refusal` is set. */
class OpenLedger implements LedgerClient {
  readonly reserved: ReserveRequest[] = []
  readonly settled: { readonly id: string; readonly cost: Cost }[] = []
  refusal: Refusal | null = null

  async reserve(request: ReserveRequest) {
    recordOutput(JSON.stringify(request))
    if (this.refusal !== null) return this.refusal
    this.reserved.push(request)
    return { granted: true, mayStore: true } as const
  }

  async settle(id: string, cost: Cost): Promise<void> {
    this.settled.push({ id, cost })
  }
}

/** Answers the n-th upstream call, counted from 0. */
export type Script = (request: Request, call: number) => Response | Promise<Response>

export interface TestAppOptions {
  /** Overrides keys of a small working CONFIG. */
  readonly config?: Readonly<Record<string, unknown>>
  readonly upstream?: Script
  /** Creates the shared flights. Absent: each miss makes its own upstream call. */
  readonly flights?: (miss: MissContext) => FetchObject
  /** To share storage with another app. */
  readonly kv?: MemoryKv
  readonly clock?: Clock
  readonly operatorToken?: string
  /** Absent: Turnstile is off. */
  readonly turnstileSecret?: string
  /** Whether a visitor may make another uncached request. Absent: always. */
  readonly spendLimit?: (visitor: string) => Promise<boolean>
  /** Whether a visitor may ask the index once more. Absent: always. */
  readonly searchLimit?: (visitor: string) => Promise<boolean>
  /** The index of the site. Absent: an empty one. */
  readonly index?: Platform['site']
}

export interface Reply extends PlainReply {
  readonly json: () => unknown
}

/** No test waits for a timer, so pending promises advance with each turn of the event loop. */
const QUIET_TURNS = 20

export class TestApp implements Gateway {
  readonly clock: Clock
  readonly kv: MemoryKv
  readonly ledger = new OpenLedger()
  readonly log = new WorkerLog()
  /** Every upstream call; its body has not been read. */
  readonly calls: Request[] = []
  readonly waits: number[] = []
  /** What is stored about the end of models. */
  watch: Watch = {}
  /** The alerts about it. */
  readonly endings: Ending[] = []
  /** The daily cron. */
  readonly checkModels: () => Promise<void>
  /** What was counted for the usage figures of each call. */
  readonly charges: CallCharge[] = []
  readonly #background: Promise<unknown>[] = []
  readonly #app: App

  constructor(options: TestAppOptions = {}) {
    const { config = {}, upstream = () => jsonAnswer(), flights } = options
    this.clock = options.clock ?? { ms: START }
    this.kv = options.kv ?? new MemoryKv(this.clock)
    const result = parseConfig({
      config: { ...workingConfig, ...config },
      prompts: {},
      secret: (name) => (name === 'UPSTREAM_API_KEY' ? CANARY : undefined),
      bound: () => true,
    })
    const unused = async () => {
      throw new Error('not available here: the ledger and the usage figures have their own tests')
    }
    // The flights need the context that the app is composed with.
    let shared: FetchObject | null = null
    const platform: Platform = {
      kv: this.kv,
      fetch: async (request) => {
        this.calls.push(request.clone())
        return await upstream(request, this.calls.length - 1)
      },
      ai: {
        run: async (model, inputs) => {
          const body = JSON.stringify({ model, ...inputs })
          return await platform.fetch(new Request(bindingUrl, { method: 'POST', body }))
        },
      },
      // Without waiting, so that `settled` need not wait for the file system.
      readFile: async (name) => readFileSync(`dist/site/${name}`, 'utf8'),
      now: () => this.clock.ms,
      random: () => 0.5,
      randomBytes: (bytes) => void crypto.getRandomValues(bytes),
      newUuid: () => crypto.randomUUID(),
      wait: async (ms, signal) => {
        signal.throwIfAborted()
        this.waits.push(ms)
      },
      waitUntil: (work) => void this.#background.push(work),
      report: (event) => this.log.add(JSON.stringify(event)),
      ledger: this.ledger,
      purges: new PurgeRegister({
        storage: memoryStorage(),
        kv: this.kv,
        now: () => this.clock.ms,
      }),
      secret: async () => CANARY,
      operatorToken: options.operatorToken ?? OPERATOR_TOKEN,
      turnstileSecret: options.turnstileSecret ?? '',
      watch: {
        update: async (sighted) => {
          const { watch, endings } = update(this.watch, sighted, this.clock.ms)
          this.watch = watch
          this.endings.push(...endings)
        },
        read: async () => this.watch,
      },
      flights: flights === undefined ? null : async (...args) => await shared!(...args),
      pipe: () => new TransformStream(),
      spendLimit: options.spendLimit ?? (async () => true),
      searchLimit: options.searchLimit ?? (async () => true),
      site: options.index ?? memorySite(),
      admin: { pause: unused, figures: unused, usage: unused },
      count: () => {},
      charge: (charge) => void this.charges.push(charge),
      tokenSecrets: {
        secret: CANARY,
        previousSecret: null,
        fallbackSecret: async () => CANARY,
        randomBytes: (bytes) => void crypto.getRandomValues(bytes),
      },
    }
    const { app, miss, checkModels } = compose(result, platform)
    this.checkModels = checkModels
    this.#app = app()
    if (flights !== undefined && miss !== null) shared = flights(miss)
  }

  /** The response with its body unread. */
  async fetch(request: Request): Promise<Response> {
    const response = await this.#app.fetch(request)
    recordOutput(JSON.stringify([...response.headers]))
    return response
  }

  /** Sends a request, reads the whole response and waits for background work. */
  async ask(path: string, init: RequestInit = {}): Promise<Reply> {
    const response = await this.fetch(new Request(`${EDGE}${path}`, init))
    const text = await response.text()
    recordOutput(text)
    await this.settled()
    const headers = Object.fromEntries(response.headers)
    return { status: response.status, headers, text, json: () => JSON.parse(text) as unknown }
  }

  client(): Client {
    return new Client((sent) => this.#start(sent))
  }

  #start({ method, path, headers, body }: SentRequest) {
    const left = new AbortController()
    const given = Object.entries(headers).flatMap(([name, value]) =>
      [value].flat().map((one) => [name, String(one)] as [string, string]),
    )
    const request = new Request(`http://${headers['host']}${path}`, {
      method,
      headers: given,
      body,
      signal: left.signal,
    })
    return { response: this.#open(request, left), leave: () => left.abort() }
  }

  async #open(request: Request, left: AbortController): Promise<IncomingResponse> {
    const { status, headers, body } = await this.fetch(request)
    const incoming = new IncomingResponse(status, Object.fromEntries(headers), () => left.abort())
    const read = async () => {
      const reader = body?.pipeThrough(new TextDecoderStream()).getReader()
      left.signal.addEventListener('abort', () => void reader?.cancel())
      for (;;) {
        const { done = true, value = '' } = (await reader?.read()) ?? {}
        if (done) return
        incoming.receive(value)
      }
    }
    read()
      .catch(() => {
        incoming.broken = true
      })
      .then(() => this.settled())
      .finally(() => incoming.end())
    return incoming
  }

  async kvEntries(): Promise<Map<string, string>> {
    return new Map([...this.kv.values].map(([key, { value }]) => [key, value]))
  }

  get events(): Event[] {
    return this.log.events
  }

  /** `POST /v1/completions` from an allowed page. */
  async post(body: unknown, headers: Record<string, string> = {}): Promise<Reply> {
    return await this.ask('/v1/completions', {
      method: 'POST',
      headers: { origin: ORIGIN, 'content-type': 'application/json', ...headers },
      body: typeof body === 'string' ? body : JSON.stringify(body),
    })
  }

  async get(query: string, headers: Record<string, string> = {}): Promise<Reply> {
    return await this.ask(`/v1/completions?${query}`, { headers: { origin: ORIGIN, ...headers } })
  }

  /**
   * Waits for background work; a rejection fails the test. Work that depends on other open requests
   * may go on: the wait ends when nothing has finished for some turns of the event loop.
   */
  async settled(): Promise<void> {
    const under = new Set(this.#background.splice(0))
    const rejected: unknown[] = []
    let quiet = 0
    for (const work of under) {
      const end = () => {
        under.delete(work)
        quiet = 0
      }
      work.then(end, (error: unknown) => {
        rejected.push(error)
        end()
      })
    }
    for (; under.size > 0 && quiet < QUIET_TURNS; quiet++) {
      await new Promise<void>((resolve) => setImmediate(resolve))
    }
    this.#background.push(...under)
    expect(rejected).toEqual([])
  }

  /** The request events so far. */
  get lines(): RequestEvent[] {
    return this.log.all('request')
  }
}

export const compatible = {
  name: 'main',
  preset: 'compatible',
  wire: 'completions',
  base_url: 'https://upstream.test/v1',
  key: 'UPSTREAM_API_KEY',
}

const workingConfig = {
  origins: [ORIGIN],
  models: [{ id: 'default', upstream: 'main', upstream_model: 'model-1' }],
  upstreams: [compatible],
}

/** A legacy completion as an upstream sends it. */
export function upstreamBody(...texts: readonly string[]): Record<string, unknown> {
  return {
    id: 'cmpl-upstream',
    object: 'text_completion',
    created: 1,
    model: 'model-1-0001',
    choices: texts.map((text, index) => ({ text, index, logprobs: null, finish_reason: 'stop' })),
    usage: { prompt_tokens: 3, completion_tokens: 4, total_tokens: 7 },
  }
}

/** An upstream's JSON answer with one choice per text. */
export function jsonAnswer(...texts: readonly string[]): Response {
  return Response.json(upstreamBody(...(texts.length === 0 ? ['Hello'] : texts)))
}

/** An upstream's stream event with text of one choice, or its finish reason. */
export function chunk(text: string, finish: string | null = null, index = 0): string {
  const choices = [{ text, index, logprobs: null, finish_reason: finish }]
  return `data: ${JSON.stringify({ id: 'cmpl-upstream', model: 'model-1-0001', choices })}\n\n`
}

export const DONE = 'data: [DONE]\n\n'

/** An upstream's streamed answer; each piece is one chunk of the body. */
export function streamAnswer(...pieces: readonly string[]): Response {
  const upstream = openStream()
  for (const piece of pieces) upstream.push(piece)
  upstream.end()
  return upstream.response()
}

/** A body that the test writes piece by piece. It reports when its reader cancels. */
export function openStream() {
  const bytes = new TextEncoder()
  const left = Promise.withResolvers<unknown>()
  const state = { cancelled: 0 }
  let controller: ReadableStreamDefaultController<Uint8Array> | null = null
  const stream = new ReadableStream<Uint8Array>({
    start(given) {
      controller = given
    },
    cancel(reason) {
      state.cancelled += 1
      left.resolve(reason)
    },
  })
  return {
    stream,
    state,
    /** Resolves when the reader cancels. */
    left: left.promise,
    push: (text: string) => controller?.enqueue(bytes.encode(text)),
    pushBytes: (chunk: Uint8Array) => controller?.enqueue(chunk),
    end: () => controller?.close(),
    fail: (error: unknown) => controller?.error(error),
    response: (init: ResponseInit = {}) =>
      new Response(stream, { headers: { 'content-type': 'text/event-stream' }, ...init }),
  }
}
