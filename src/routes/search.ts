// `GET /v1/search`: passages of the owner's site. Never spends.
import type { IsOperator } from '../access/operator.ts'
import type { Visitors } from '../access/visitors.ts'
import { GatewayError, invalidValue } from '../errors.ts'
import type { Report } from '../events.ts'
import { jsonReply, type Reply } from '../http/reply.ts'
import { queryFields } from '../request/query.ts'
import type { Search } from '../search/search.ts'
import { preview } from '../validation.ts'
import type { Visit } from './request-log.ts'

export interface SearchRouteDeps {
  readonly search: Search
  readonly visitors: Visitors
  readonly isOperator: IsOperator
  /** `max-age` of results. */
  readonly browserSeconds: number
  readonly report: Report
}

export const MAX_QUESTION_CHARS = 1000
export const MAX_RESULTS = 20
export const DEFAULT_RESULTS = 6

/** `GET /v1/search?q=…&limit=6`. @throws GatewayError */
export async function searchSite(visit: Visit, deps: SearchRouteDeps): Promise<Reply> {
  const { q, limit } = queryFields(visit.url.search, ['q', 'limit'])
  const question = questionOf(q)
  const count = limitOf(limit)
  const { passages } = await deps.search.find(question, count, await visitorOf(visit, deps))
  const data = passages.map(({ url, title, heading, text, score }) => ({
    object: 'passage',
    url,
    title,
    heading,
    text,
    score,
  }))
  const reply = jsonReply({ object: 'list', data })
  const cached = { 'cache-control': `public, max-age=${deps.browserSeconds}` }
  return { ...reply, headers: { ...reply.headers, ...cached } }
}

function questionOf(q: string | undefined): string {
  if (q === undefined) {
    throw new GatewayError('missing_field', 'Cannot find "q": it is required', { param: 'q' })
  }
  if (q.trim() === '') throw invalidValue('q', 'expected a string that is not empty')
  if (q.length <= MAX_QUESTION_CHARS) return q
  throw invalidValue('q', `expected at most ${MAX_QUESTION_CHARS} characters, got ${q.length}`)
}

function limitOf(limit: string | undefined): number {
  if (limit === undefined) return DEFAULT_RESULTS
  const count = /^\d{1,3}$/.test(limit) ? Number(limit) : 0
  if (count >= 1 && count <= MAX_RESULTS) return count
  const expected = `expected a whole number from 1 to ${MAX_RESULTS}, got ${preview(limit)}`
  throw invalidValue('limit', expected)
}

/** Null: the operator. */
async function visitorOf(visit: Visit, deps: SearchRouteDeps): Promise<string | null> {
  const { visitors, report } = deps
  const { request, logFields, id } = visit
  const isOperator = await deps.isOperator(request.headers)
  const visitor = await visitors.visitorOf({
    headers: request.headers,
    origin: logFields.origin,
    isOperator,
    maySpend: false,
    refused: (reason) => report({ event: 'visitor_refused', request_id: id, reason }),
  })
  logFields.visitor = visitor
  return isOperator ? null : visitor
}
