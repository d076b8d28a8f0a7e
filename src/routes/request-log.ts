// The state of one request: its id, its start time and its log line. Routes fill in the fields; the
// app, or the end of a streamed body, closes it once.
import type { Code } from '../errors.ts'
import type { Report, RequestEvent } from '../events.ts'
import { type CacheOutcome, cacheStatus, cacheWord } from '../http/reply.ts'
import type { RequestCounts } from '../usage.ts'

export interface VisitContext {
  readonly now: () => number
  readonly report: Report
  readonly waitUntil: (work: Promise<unknown>) => void
  /** Counts a request for the usage figures. */
  readonly count: (event: RequestEvent, counts: RequestCounts) => void
}

type LogFields = Pick<
  RequestEvent,
  'route' | 'model' | 'upstream' | 'attempts' | 'tokens_in' | 'tokens_out' | 'visitor' | 'origin'
>

/** The routes that are counted. */
const answering: ReadonlySet<string> = new Set(['completions', 'chat', 'ai-sdk'])

/** The status in the log of a request whose visitor disconnected, as in nginx. Never sent. */
export const CLIENT_LEFT = 499

export class Visit {
  readonly request: Request
  readonly url: URL
  readonly id: string
  readonly startedAt: number
  readonly logFields: { -readonly [K in keyof LogFields]: LogFields[K] } = {
    route: 'other',
    model: null,
    upstream: null,
    attempts: 0,
    tokens_in: 0,
    tokens_out: 0,
    visitor: null,
    origin: null,
  }
  counts: RequestCounts = { promptId: null, saved: null }
  /** How the cache served the request, for the log and the header; null: it was not asked. */
  cache: CacheOutcome | null = null
  /** The body is a stream, whose end closes the visit. */
  streaming = false
  readonly #context: VisitContext
  #closed = false

  constructor(request: Request, id: string, context: VisitContext) {
    this.request = request
    this.url = new URL(request.url)
    this.id = id
    this.startedAt = context.now()
    this.#context = context
  }

  /** Headers to send even if the response becomes an error. */
  get headers(): Record<string, string> {
    return this.cache === null ? {} : { 'cache-status': cacheStatus(this.cache) }
  }

  waitUntil(work: Promise<unknown>): void {
    this.#context.waitUntil(work)
  }

  close(status: number, code: Code | null): void {
    if (this.#closed) return
    this.#closed = true
    const { now, report, count } = this.#context
    const ms = Math.max(0, now() - this.startedAt)
    const event = {
      event: 'request',
      request_id: this.id,
      status,
      code,
      ms,
      cache: this.cache === null ? null : cacheWord(this.cache),
      ...this.logFields,
    } as const
    report(event)
    if (answering.has(this.logFields.route)) count(event, this.counts)
  }
}
