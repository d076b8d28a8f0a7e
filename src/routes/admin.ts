// The operator's endpoints. All of them require OPERATOR_TOKEN, and no response may be cached.
import * as v from 'valibot'
import { type IsOperator, requireOperator } from '../access/operator.ts'
import type { BudgetFigures } from '../budget/budget.ts'
import type { Price } from '../budget/ledger.ts'
import { modelName, pageName, promptName } from '../cache/names.ts'
import type { Purges } from '../cache/purge.ts'
import { inTime } from '../deadline.ts'
import { type Code, GatewayError, invalidValue, messages } from '../errors.ts'
import type { Frequencies } from '../frequent.ts'
import { type BodyOptions, readJson } from '../http/body.ts'
import { jsonReply, type Reply } from '../http/reply.ts'
import { mapped } from '../json.ts'
import { canonicalAddressOf, MAX_ADDRESS_CHARS, readAddress } from '../page/rules.ts'
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
import { byName, preview } from '../validation.ts'
import type { Visit } from './request-log.ts'

export interface AdminDeps {
  readonly body: BodyOptions
  readonly isOperator: IsOperator
  readonly purges: Purges
  /**
   * The purge names of a completion request's body.
   *
   * @param own the URL of this request to the Worker
   * @throws GatewayError if the body is not valid
   */
  readonly requestNames: (body: unknown, own: URL) => Promise<string[]>
  /** Models and prompts that can be purged, by name. */
  readonly models: ReadonlyMap<string, { readonly price: Price | null }>
  readonly prompts: ReadonlyMap<string, { readonly model?: string | undefined }>
  /** The origins that pages may be read from. */
  readonly origins: readonly string[]
  readonly now: () => number
  /** @param until unix seconds, or null */
  readonly pause: (until: number | null) => Promise<void>
  readonly figures: () => Promise<BudgetFigures>
  /** @param fromHour the first hour to return, unix seconds */
  readonly usage: (fromHour: number) => Promise<UsageFigures>
}

/** The counts of all isolates. */
export interface UsageFigures {
  /** Hours with requests, oldest first. */
  readonly hours: ReadonlyMap<number, HourCounts>
  /** Days with requests among the last 30, oldest first. */
  readonly days: readonly DaySums[]
  /** The last failed attempts, oldest first. */
  readonly failures: readonly Failure[]
  /** Origins refused today. */
  readonly refused: Frequencies
}

export const purgeSchema = v.union([
  v.strictObject({ all: v.literal(true) }),
  v.strictObject({ request: byName(v.string(), v.unknown()) }),
  v.strictObject({ prompt_id: v.pipe(v.string(), v.minLength(1), v.maxLength(64)) }),
  v.strictObject({ model: v.pipe(v.string(), v.minLength(1), v.maxLength(128)) }),
  v.strictObject({ page: v.pipe(v.string(), v.minLength(1), v.maxLength(MAX_ADDRESS_CHARS)) }),
])

export const pauseSchema = v.strictObject({
  until: v.nullable(v.pipe(v.number(), v.safeInteger(), v.minValue(0))),
})

/** Ninety days: figures are not stored longer. */
export const MAX_HOURS = 2160
const RETRY_AFTER_S = 10

/** `POST /admin/purge`. @throws GatewayError */
export async function purge(visit: Visit, deps: AdminDeps): Promise<Reply> {
  const expected =
    '{"all":true}, {"request":{…}}, {"prompt_id":"…"}, {"model":"…"} or {"page":"https://…"}'
  const body = await bodyOf(visit, purgeSchema, expected, null, deps)
  const [kind, names] = await targetOf(body, visit.url, deps)
  await answerOf(deps.purges.purge({ names, at: visit.startedAt }), notPurged)
  return jsonReply({ purged: kind })
}

/** `POST /admin/pause`. @throws GatewayError */
export async function pause(visit: Visit, deps: AdminDeps): Promise<Reply> {
  const expected = '{"until": <unix seconds>} or {"until": null}'
  const { until } = await bodyOf(visit, pauseSchema, expected, 'until', deps)
  await answerOf(deps.pause(until), noLedger)
  const nowS = Math.floor(deps.now() / 1000)
  return jsonReply({ paused_until: until !== null && until > nowS ? until : null })
}

/** `GET /admin/usage?hours=24`. @throws GatewayError */
export async function usage(visit: Visit, deps: AdminDeps): Promise<Reply> {
  await requireOperator(visit.request.headers, deps.isOperator)
  const text = visit.url.searchParams.get('hours') ?? '24'
  const hours = /^\d{1,4}$/.test(text) ? Number(text) : 0
  if (hours < 1 || hours > MAX_HOURS) {
    throw invalidValue(
      'hours',
      `expected a whole number from 1 to ${MAX_HOURS}, got ${preview(text)}`,
    )
  }
  const nowMs = deps.now()
  const prices = mapped(deps.models, ({ price }) => price)
  const [budget, usage] = await Promise.all([
    answerOf(deps.figures(), noLedger),
    answerOf(deps.usage(hourOf(nowMs) - (hours - 1) * 3600), noFigures),
  ])
  return jsonReply({
    now: Math.floor(nowMs / 1000),
    budget: { ...budget, usd_spent: roundedUsd(budget.usd_spent) },
    days: usage.days.map(dayFigures),
    hours: [...usage.hours].map((hour) => hourFigures(...hour)),
    // Newest first, the order in which the dashboard lists them.
    failures: usage.failures.toReversed(),
    refused_origins: refusedFigures(usage.refused),
    prices: {
      models: prices,
      // Of prompts that name a model: JSON leaves out what is undefined.
      prompts: mapped(deps.prompts, ({ model = '' }) => prices[model]),
    },
  })
}

/** The kind of purge and the names it covers; null: everything. */
async function targetOf(
  body: v.InferOutput<typeof purgeSchema>,
  own: URL,
  deps: AdminDeps,
): Promise<[string, string[] | null]> {
  const { prompts, models, requestNames, origins } = deps
  if ('all' in body) return ['all', null]
  if ('prompt_id' in body) {
    return ['prompt', [promptName(known(body.prompt_id, prompts, 'prompt', 'prompt_id'))]]
  }
  if ('model' in body) return ['model', [modelName(known(body.model, models, 'model', 'model'))]]
  if ('page' in body) return ['page', [await pageName(pageAddress(body.page, origins))]]
  return ['request', await requestNames(body.request, own)]
}

function pageAddress(page: string, origins: readonly string[]): string {
  const url = readAddress(page)
  if (url !== null && origins.includes(url.origin)) return canonicalAddressOf(url)
  throw invalidValue('page', `expected the URL of a page on one of "origins", got ${preview(page)}`)
}

async function bodyOf<Schema extends typeof purgeSchema | typeof pauseSchema>(
  visit: Visit,
  schema: Schema,
  expected: string,
  param: string | null,
  deps: AdminDeps,
): Promise<v.InferOutput<Schema>> {
  await requireOperator(visit.request.headers, deps.isOperator)
  const result = v.safeParse(schema, await readJson(visit.request, deps.body))
  if (result.success) return result.output
  throw new GatewayError('invalid_value', `Cannot use the body: expected ${expected}`, { param })
}

/** @throws GatewayError for an unknown name: a purge with a typo must not look successful */
function known(
  name: string,
  names: ReadonlyMap<string, unknown>,
  what: string,
  param: string,
): string {
  if (names.has(name)) return name
  const all = [...names.keys()].join(', ') || 'none'
  const message = `Cannot find the ${what} ${preview(name)}: this endpoint has ${all}`
  throw new GatewayError('not_found', message, { param })
}

/** Longest wait for an object. */
const OBJECT_MS = 10_000

const notPurged = [
  'internal',
  'The purge could not be stored, so other instances may still serve what it names. Send it again.',
] as const
const noLedger = ['ledger_unavailable', messages.admin_ledger_unavailable] as const
const noFigures = ['internal', 'The usage figures are unavailable. Try again shortly.'] as const

/** An object's answer. Maps its failure, and no answer in time, to one error without details. */
export async function answerOf<T>(
  answer: Promise<T>,
  [code, message]: readonly [code: Code, message: string],
): Promise<T> {
  const fail = (cause?: unknown): never => {
    throw new GatewayError(code, message, { retryAfterSeconds: RETRY_AFTER_S, cause })
  }
  return await inTime(OBJECT_MS, answer.catch(fail), fail)
}
