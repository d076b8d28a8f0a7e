// The operator's doors: all of them need OPERATOR_TOKEN, none of them may be cached.
import * as v from 'valibot'
import type { Operator } from '../access/operator.ts'
import type { Purges, PurgeTarget } from '../cache/purge.ts'
import { GatewayError } from '../errors.ts'
import { type BodyOptions, readJson } from '../http/body.ts'
import { jsonReply, type Reply } from '../http/reply.ts'
import { type HourCounts, hourFigures, hourOf } from '../usage.ts'
import type { Visit } from './visit.ts'

export interface AdminContext {
  readonly operator: Operator
  readonly purges: Purges
  /** The cache key of a request as visitors send it. @throws GatewayError if it is none */
  readonly keyOf: (body: unknown, own: URL) => Promise<string>
  readonly now: () => number
  /** @param until unix seconds, or null */
  readonly pause: (until: number | null) => Promise<void>
  readonly figures: () => Promise<BudgetFigures>
  /** Hours that begin at `hour` (unix seconds) or later, oldest first. */
  readonly hoursSince: (hour: number) => Promise<ReadonlyMap<number, HourCounts>>
}

/** Today's budget, as the ledger has it. */
export interface BudgetFigures {
  readonly tokens_per_day: number
  readonly spent: number
  readonly reserved: number
  readonly usd_spent: number
  readonly paused_until: number | null
}

export const purgeSchema = v.union([
  v.strictObject({ all: v.literal(true) }),
  v.strictObject({ request: v.record(v.string(), v.unknown()) }),
  v.strictObject({ prompt_id: v.pipe(v.string(), v.minLength(1), v.maxLength(64)) }),
  v.strictObject({ model: v.pipe(v.string(), v.minLength(1), v.maxLength(128)) }),
])

export const pauseSchema = v.strictObject({
  until: v.nullable(v.pipe(v.number(), v.safeInteger(), v.minValue(0))),
})

/** Ninety days, as long as figures are kept. */
export const MAX_HOURS = 2160
const RETRY_AFTER_S = 10

export class Admin {
  readonly #body: BodyOptions
  readonly #context: AdminContext

  constructor(body: BodyOptions, context: AdminContext) {
    this.#body = body
    this.#context = context
  }

  /** `POST /admin/purge`. @throws GatewayError */
  async purge(visit: Visit): Promise<Reply> {
    await this.#authorize(visit)
    const result = v.safeParse(purgeSchema, await readJson(visit.request, this.#body))
    if (!result.success) {
      throw new GatewayError(
        'invalid_value',
        'Cannot purge this: expected {"all":true}, {"request":{…}}, {"prompt_id":"…"} or {"model":"…"}',
      )
    }
    const [word, target] = await this.#target(result.output, visit.url)
    await this.#context.purges.purge(target)
    return jsonReply({ purged: word })
  }

  /** `POST /admin/pause`. @throws GatewayError */
  async pause(visit: Visit): Promise<Reply> {
    await this.#authorize(visit)
    const result = v.safeParse(pauseSchema, await readJson(visit.request, this.#body))
    if (!result.success) {
      throw new GatewayError(
        'invalid_value',
        'Cannot pause: expected {"until": <unix seconds>} or {"until": null}',
        { param: 'until' },
      )
    }
    const { until } = result.output
    await fromLedger(this.#context.pause(until))
    const nowS = Math.floor(this.#context.now() / 1000)
    return jsonReply({ paused_until: until !== null && until > nowS ? until : null })
  }

  /** `GET /admin/usage?hours=24`. @throws GatewayError */
  async usage(visit: Visit): Promise<Reply> {
    await this.#authorize(visit)
    const asked = visit.url.searchParams.get('hours') ?? '24'
    const hours = /^\d{1,4}$/.test(asked) ? Number(asked) : 0
    if (hours < 1 || hours > MAX_HOURS) {
      throw new GatewayError(
        'invalid_value',
        `Cannot use "hours": expected a whole number from 1 to ${MAX_HOURS}`,
        { param: 'hours' },
      )
    }
    const nowMs = this.#context.now()
    const [budget, counts] = await Promise.all([
      fromLedger(this.#context.figures()),
      this.#context.hoursSince(hourOf(nowMs) - (hours - 1) * 3600),
    ])
    return jsonReply({
      now: Math.floor(nowMs / 1000),
      budget,
      hours: [...counts].map(([hour, figures]) => hourFigures(hour, figures)),
    })
  }

  async #target(
    given: v.InferOutput<typeof purgeSchema>,
    own: URL,
  ): Promise<[string, PurgeTarget]> {
    if ('all' in given) return ['all', { kind: 'all' }]
    if ('prompt_id' in given) return ['prompt', { kind: 'prompt', name: given.prompt_id }]
    if ('model' in given) return ['model', { kind: 'model', name: given.model }]
    return ['request', { kind: 'key', name: await this.#context.keyOf(given.request, own) }]
  }

  async #authorize({ request }: Visit): Promise<void> {
    if (await this.#context.operator.isOperator(request.headers)) return
    throw new GatewayError(
      'operator_token_invalid',
      'Cannot do this without the operator\'s token: send it as "Authorization: Bearer …"',
    )
  }
}

/** Whatever keeps the ledger from answering, the operator hears the same as a visitor. */
async function fromLedger<T>(answer: Promise<T>): Promise<T> {
  try {
    return await answer
  } catch {
    throw new GatewayError(
      'ledger_unavailable',
      'Cannot reach the ledger now: try again in a moment',
      {
        retryAfterSeconds: RETRY_AFTER_S,
      },
    )
  }
}
