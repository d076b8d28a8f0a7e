// The operator's endpoints for the index of the site: put a page into it, remove it, list what it
// has. Only the operator's requests make the Worker fetch a page.
import * as v from 'valibot'
import { type IsOperator, requireOperator } from '../access/operator.ts'
import { GatewayError, invalidValue, messages } from '../errors.ts'
import type { Report } from '../events.ts'
import { type BodyOptions, readJson } from '../http/body.ts'
import { jsonReply, type Reply } from '../http/reply.ts'
import { type FetchDeps, PageError } from '../page/fetch.ts'
import {
  type AddressOptions,
  canonicalAddressOf,
  MAX_ADDRESS_CHARS,
  readAddress,
  redirectRefusalOf,
  refusalOf,
} from '../page/rules.ts'
import { queryFields } from '../request/query.ts'
import { type IndexingClient, indexPage } from '../search/indexing.ts'
import type { Search } from '../search/search.ts'
import type { RemovedPage, SiteList } from '../search/site-index.ts'
import { preview } from '../validation.ts'
import { answerOf } from './admin.ts'
import { reasons } from './page-variables.ts'
import type { Visit } from './request-log.ts'

export interface SiteDeps {
  readonly body: BodyOptions
  readonly isOperator: IsOperator
  readonly site: SiteClient
  readonly search: Search
  readonly fetching: FetchDeps
  /** The origins that pages may be read from. */
  readonly origins: readonly string[]
  /** What is indexed: `site` in CONFIG. */
  readonly settings: { readonly paths: readonly string[]; readonly selector: string }
  readonly report: Report
  readonly now: () => number
}

/** The way to the index. */
export interface SiteClient extends IndexingClient {
  remove(name: string): Promise<RemovedPage>
  list(): Promise<SiteList>
}

const MAX_QUESTIONS = 50
const question = v.pipe(v.string(), v.minLength(1), v.maxLength(300))

export const sitePageSchema = v.strictObject({
  url: v.pipe(v.string(), v.minLength(1), v.maxLength(MAX_ADDRESS_CHARS)),
  questions: v.optional(v.pipe(v.array(question), v.maxLength(MAX_QUESTIONS))),
})

const EXPECTED = `{"url":"https://…"}, perhaps with "questions", up to ${MAX_QUESTIONS} of at most 300 characters`

/** `PUT /admin/site/page`. @throws GatewayError */
export async function putPage(visit: Visit, deps: SiteDeps): Promise<Reply> {
  await requireOperator(visit.request.headers, deps.isOperator)
  const result = v.safeParse(sitePageSchema, await readJson(visit.request, deps.body))
  if (!result.success) {
    throw new GatewayError('invalid_value', `Cannot use the body: expected ${EXPECTED}`)
  }
  const { url: text, questions = null } = result.output
  const { origins, settings, search, fetching, site, now } = deps
  const url = addressOf(text)
  const options: AddressOptions = { origins, paths: settings.paths, own: visit.url }
  const refusal = refusalOf(url, options)
  if (refusal !== null) {
    const message = `Cannot index the page: ${refusal}`
    throw new GatewayError('page_not_allowed', message, { param: 'url' })
  }
  const source = {
    url,
    selector: settings.selector,
    refusalOf: (to: URL) => redirectRefusal(url, to, options),
    allows: (page: URL) => refusalOf(page, options) === null,
  }
  try {
    // All that reads pages is imported when it is needed (scripts/build-worker.ts).
    const { fetchPassages } = await import('../search/read.ts')
    const { version, ...stored } = await indexPage(url, questions, {
      site: { page: (name) => answer(site.page(name)), put: (update) => answer(site.put(update)) },
      settings,
      fetchPassages: (known) => fetchPassages(source, known, fetching),
      now,
    })
    search.pageChanged(version)
    return jsonReply({ url: url.href, ...stored })
  } catch (error) {
    throw error instanceof PageError ? unavailable(error, visit, deps) : error
  }
}

/** `DELETE /admin/site/page?url=…`. @throws GatewayError */
export async function deletePage(visit: Visit, deps: SiteDeps): Promise<Reply> {
  await requireOperator(visit.request.headers, deps.isOperator)
  const { url: text } = queryFields(visit.url.search, ['url'])
  if (text === undefined) {
    throw new GatewayError('missing_field', 'Cannot find "url": it is required', { param: 'url' })
  }
  const url = addressOf(text)
  const { removed, version } = await answer(deps.site.remove(canonicalAddressOf(url)))
  deps.search.pageChanged(version)
  return jsonReply({ url: url.href, removed })
}

/** `GET /admin/site`. @throws GatewayError */
export async function listSite(visit: Visit, deps: SiteDeps): Promise<Reply> {
  await requireOperator(visit.request.headers, deps.isOperator)
  const { version, pages } = await answer(deps.site.list())
  return jsonReply({
    object: 'list',
    version,
    passages: pages.reduce((sum, { passages }) => sum + passages, 0),
    indexed_at: pages.length === 0 ? null : Math.max(...pages.map((page) => page.indexed_at)),
    data: pages.map((page) => ({ object: 'page', ...page })),
  })
}

function addressOf(text: string): URL {
  const url = readAddress(text)
  if (url !== null) return url
  throw invalidValue('url', `expected an absolute http or https URL, got ${preview(text)}`)
}

/** A page that redirects to another one is not indexed: that one is indexed by its own address. */
function redirectRefusal(from: URL, to: URL, options: AddressOptions): string | null {
  if (canonicalAddressOf(from) !== canonicalAddressOf(to)) return 'it is another page'
  return redirectRefusalOf(from, to, options)
}

const ownReasons = {
  elsewhere: 'it redirects to another page',
  too_large: 'it is larger than 1 MiB, or 8 MiB for text, or has more than 20,000 passages',
} as const

function unavailable({ fault }: PageError, { id }: Visit, { report }: SiteDeps): GatewayError {
  report({ event: 'page_failed', request_id: id, reason: fault })
  const message = `Cannot index the page: ${{ ...reasons, ...ownReasons }[fault]}`
  return new GatewayError('page_unavailable', message, { param: 'url', cause: fault })
}

const answer = <T>(work: Promise<T>): Promise<T> =>
  answerOf(work, ['search_unavailable', messages.search_unavailable])
