// The operator's doors: all of them need OPERATOR_TOKEN, none of them may be cached.
import * as v from 'valibot'
import type { Operator } from '../access/operator.ts'
import { modelName, pageName, promptName } from '../cache/names.ts'
import type { Purges } from '../cache/purge.ts'
import { GatewayError } from '../errors.ts'
import { preview } from '../faults.ts'
import type { Frequencies } from '../frequent.ts'
import { type BodyOptions, readJson } from '../http/body.ts'
import { jsonReply, type Reply } from '../http/reply.ts'
import { pageAt, readAddress } from '../page/address.ts'
import {
  type DaySums,
  dayFigures,
  type Failure,
  type HourCounts,
  hourFigures,
  hourOf,
  refusedFigures,
  roundedUsd,
} from '../usage.ts'
import type { Visit } from './visit.ts'

export interface AdminContext {
  readonly operator: Operator
  readonly purges: Purges
  /** What a purge of a request names, as visitors send it. @throws GatewayError if it is none */
  readonly requestNames: (body: unknown) => Promise<string[]>
  /** What there is to be purged by its name. */
  readonly models: ReadonlyMap<string, unknown>
  readonly prompts: ReadonlyMap<string, unknown>
  /** Where pages are read from. */
  readonly origins: readonly string[]
  readonly now: () => number
  /** @param until unix seconds, or null */
  readonly pause: (until: number | null) => Promise<void>
  readonly figures: () => Promise<BudgetFigures>
  /** @param fromHour the first hour to give, unix seconds */
  readonly usage: (fromHour: number) => Promise<UsageFigures>
}

/** Today's budget, as the ledger has it. */
export interface BudgetFigures {
  readonly tokens_per_day: number
  readonly spent: number
  readonly reserved: number
  /** 0: not limited in USD. */
  readonly usd_per_day: number
  readonly usd_spent: number
  readonly paused_until: number | null
}

/** What all isolates have counted. */
export interface UsageFigures {
  /** Those with requests, oldest first. */
  readonly hours: ReadonlyMap<number, HourCounts>
  /** Of the last 30 days those with requests, oldest first. */
  readonly days: readonly DaySums[]
  /** The last failed attempts, the newest last. */
  readonly failures: readonly Failure[]
  /** Origins that were refused today. */
  readonly refused: Frequencies
}

export const purgeSchema = v.union([
  v.strictObject({ all: v.literal(true) }),
  v.strictObject({ request: v.record(v.string(), v.unknown()) }),
  v.strictObject({ prompt_id: v.pipe(v.string(), v.minLength(1), v.maxLength(64)) }),
  v.strictObject({ model: v.pipe(v.string(), v.minLength(1), v.maxLength(128)) }),
  v.strictObject({ page: v.pipe(v.string(), v.minLength(1), v.maxLength(2048)) }),
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
        'Cannot purge this: expected {"all":true}, {"request":{…}}, {"prompt_id":"…"}, {"model":"…"} or {"page":"https://…"}',
      )
    }
    const [word, names] = await this.#target(result.output)
    await this.#context.purges.purge({ names, at: visit.startedAt })
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
    const [budget, usage] = await Promise.all([
      fromLedger(this.#context.figures()),
      this.#context.usage(hourOf(nowMs) - (hours - 1) * 3600),
    ])
    return jsonReply({
      now: Math.floor(nowMs / 1000),
      budget: { ...budget, usd_spent: roundedUsd(budget.usd_spent) },
      days: usage.days.map(dayFigures),
      hours: [...usage.hours].map(([hour, figures]) => hourFigures(hour, figures)),
      // The newest first, as they are read.
      failures: usage.failures.toReversed(),
      refused_origins: refusedFigures(usage.refused),
    })
  }

  /** The word for what is purged, and its names; null: everything. */
  async #target(given: v.InferOutput<typeof purgeSchema>): Promise<[string, string[] | null]> {
    const { prompts, models, requestNames } = this.#context
    if ('all' in given) return ['all', null]
    if ('prompt_id' in given) {
      known(prompts, given.prompt_id, 'prompt', 'prompt_id')
      return ['prompt', [promptName(given.prompt_id)]]
    }
    if ('model' in given) {
      known(models, given.model, 'model', 'model')
      return ['model', [modelName(given.model)]]
    }
    if ('page' in given) return ['page', [await pageName(this.#address(given.page))]]
    return ['request', await requestNames(given.request)]
  }

  #address(page: string): string {
    const { origins } = this.#context
    const url = readAddress(page)
    if (url !== null && origins.includes(url.origin)) return pageAt(url)
    throw new GatewayError(
      'invalid_value',
      `Cannot use "page": expected the URL of a page on one of "origins", got ${preview(page)}`,
      { param: 'page' },
    )
  }

  async #authorize({ request }: Visit): Promise<void> {
    if (await this.#context.operator.isOperator(request.headers)) return
    throw new GatewayError(
      'operator_token_invalid',
      'Cannot do this without the operator\'s token: send it as "Authorization: Bearer …"',
    )
  }
}

/** @throws GatewayError: a purge of what is misspelled would look like one that worked */
function known(
  names: ReadonlyMap<string, unknown>,
  name: string,
  what: string,
  param: string,
): void {
  if (names.has(name)) return
  const all = [...names.keys()].join(', ') || 'none'
  throw new GatewayError(
    'not_found',
    `Cannot find the ${what} ${preview(name)}: this endpoint has ${all}`,
    { param },
  )
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
