// The whole service as `fetch(Request) → Response`: routing, the origin policy, errors, and the
// headers that every response has. Platform APIs are passed in by worker.ts.
import { IttyRouter } from 'itty-router'
import type { IsOperator } from './access/operator.ts'
import { type Code, GatewayError, messages, problemOf } from './errors.ts'
import { internalEvent } from './events.ts'
import { inPieces } from './http/body.ts'
import {
  checkOrigin,
  corsHeaders,
  echoedOrigin,
  isLoopback,
  isPreflight,
  type OriginVerdict,
  originForLog,
  preflightReply,
  type ReadableOrigin,
} from './http/cors.ts'
import { problemReply, statusOf } from './http/problem.ts'
import { jsonReply, type Reply } from './http/reply.ts'
import { mapped } from './json.ts'
import { type AdminDeps, pause, purge, usage } from './routes/admin.ts'
import type { Completions } from './routes/completions.ts'
import { type Catalog, listModels, listPrompts, showModel } from './routes/models.ts'
import { CLIENT_LEFT, Visit, type VisitContext } from './routes/request-log.ts'
import { type SearchRouteDeps, searchSite } from './routes/search.ts'
import { deletePage, listSite, putPage, type SiteDeps } from './routes/site.ts'
import { type NewVisitorDeps, newVisitor } from './routes/visitors.ts'
import type { Fault } from './validation.ts'

export interface AppDeps extends VisitContext {
  readonly origins: readonly string[]
  readonly originRequired: boolean
  /** Faults of CONFIG. */
  readonly faults: readonly Fault[]
  /** Faults on a public host; on a loopback host they are warnings. */
  readonly publicFaults: readonly Fault[]
  /** `GET /health` shows them to the operator. */
  readonly warnings: readonly string[]
  /** Warnings about models that end, shown with them. */
  readonly endings: () => Promise<readonly string[]>
  /** What the routes need. Null: CONFIG has faults, so only GET /health and errors are served. */
  readonly services: Services | null
  readonly newUuid: () => string
}

export interface Services {
  readonly completions: Completions
  readonly newVisitor: NewVisitorDeps
  readonly admin: AdminDeps
  readonly search: SearchRouteDeps
  readonly site: SiteDeps
  readonly isOperator: IsOperator
  readonly catalog: Catalog
  readonly openApi: () => Promise<Reply>
}

const NO_STREAM: Reply = { status: 204, headers: { 'cache-control': 'no-store' }, body: null }

type Params = Readonly<Record<string, string>>
type Handler = (to: Services, visit: Visit, params: Params) => Reply | Promise<Reply>

/** A guarded route is restricted to pages of allowed origins. */
const routes: readonly (readonly [
  method: 'GET' | 'POST' | 'PUT' | 'DELETE',
  path: string,
  name: string,
  guarded: boolean,
  handler: Handler | null,
])[] = [
  ['GET', '/v1/completions', 'completions', true, (to, visit) => to.completions.get(visit)],
  [
    'POST',
    '/v1/completions',
    'completions',
    true,
    (to, visit) => to.completions.post(visit, 'completion'),
  ],
  ['POST', '/v1/chat/completions', 'chat', true, (to, visit) => to.completions.post(visit, 'chat')],
  ['POST', '/v1/ai-sdk', 'ai-sdk', true, (to, visit) => to.completions.post(visit, 'ai-sdk')],
  // Asked for by `useChat` with `resume`: there is no stream that goes on.
  ['GET', '/v1/ai-sdk/:id/stream', 'ai-sdk-resume', true, () => NO_STREAM],
  ['GET', '/v1/search', 'search', true, (to, visit) => searchSite(visit, to.search)],
  ['POST', '/v1/visitors', 'visitors', true, (to, visit) => newVisitor(visit, to.newVisitor)],
  ['GET', '/v1/models', 'models', true, (to) => listModels(to.catalog)],
  ['GET', '/v1/models/:id+', 'models', true, (to, _, { id = '' }) => showModel(to.catalog, id)],
  ['GET', '/v1/prompts', 'prompts', true, (to) => listPrompts(to.catalog)],
  ['POST', '/admin/purge', 'purge', true, (to, visit) => purge(visit, to.admin)],
  ['POST', '/admin/pause', 'pause', true, (to, visit) => pause(visit, to.admin)],
  ['GET', '/admin/usage', 'usage', true, (to, visit) => usage(visit, to.admin)],
  ['PUT', '/admin/site/page', 'site-page', true, (to, visit) => putPage(visit, to.site)],
  ['DELETE', '/admin/site/page', 'site-page', true, (to, visit) => deletePage(visit, to.site)],
  ['GET', '/admin/site', 'site', true, (to, visit) => listSite(visit, to.site)],
  ['GET', '/openapi.json', 'openapi', false, (to) => to.openApi()],
  // The app itself answers this one, even if the configuration has faults.
  ['GET', '/health', 'health', false, null],
]

/** The routes of one path. */
interface Route {
  readonly name: string
  readonly guarded: boolean
  readonly handlers: Map<string, Handler | null>
}

interface Match {
  readonly route: Route
  /** Percent-encoded, as in the path. */
  readonly params: Params
}

const byPath = new Map<string, Route>()
for (const [method, path, name, guarded, handler] of routes) {
  const route = byPath.get(path) ?? { name, guarded, handlers: new Map() }
  byPath.set(path, route)
  route.handlers.set(method, handler)
}

/** Routes without parameters: most requests need no pattern. */
const exact = new Map<string, Match>()
/** Only finds the route: its handlers return the match instead of a response. */
const router = IttyRouter()
for (const [path, route] of byPath) {
  router.all(path, ({ params }): Match => ({ route, params }))
  if (!path.includes(':')) exact.set(path, { route, params: {} })
}

async function matchOf({ method, url }: Request, path: string): Promise<Match | undefined> {
  // The router adds properties to the object it gets, so it must not be the Request.
  return exact.get(path) ?? (await router.fetch({ method, url }))
}

export class App {
  readonly #deps: AppDeps
  #publicFaultsReported = false

  constructor(deps: AppDeps) {
    this.#deps = deps
  }

  async fetch(request: Request): Promise<Response> {
    const id = `req_${this.#deps.newUuid().replaceAll('-', '')}`
    const visit = new Visit(request, id, this.#deps)
    const verdict = checkOrigin(request, visit.url, this.#deps.origins)
    visit.logFields.origin = originForLog(verdict)
    const { reply, readableOrigin } = await this.#answer(visit, verdict)
    const { status, headers, body } = reply
    if (!visit.streaming) visit.close(status, null)
    const sent = body instanceof Uint8Array ? inPieces(body) : body
    return new Response(request.method === 'HEAD' ? null : sent, {
      status,
      headers: {
        vary: 'Origin',
        ...headers,
        ...corsHeaders(readableOrigin),
        'x-request-id': id,
        'x-content-type-options': 'nosniff',
      },
    })
  }

  async #answer(visit: Visit, verdict: OriginVerdict) {
    const allowed = verdict.kind === 'allowed' ? verdict.origin : null
    try {
      const found = await matchOf(visit.request, visit.url.pathname)
      if (isPreflight(visit.request)) {
        visit.logFields.route = 'preflight'
        const readableOrigin = this.#readableAfter(visit, verdict, found?.route) ?? allowed
        return { reply: preflightReply(visit.request, readableOrigin), readableOrigin }
      }
      return { reply: await this.#reply(visit, verdict, found), readableOrigin: allowed }
    } catch (error) {
      const code = error instanceof GatewayError ? error.code : 'internal'
      const readableOrigin = this.#readableProblem(code, verdict) ?? allowed
      return { reply: this.#problem(error, visit), readableOrigin }
    }
  }

  /** A page outside `origins` that may read this error, so that its owner learns what to change. */
  #readableProblem(code: Code, verdict: OriginVerdict): ReadableOrigin {
    if (code === 'misconfigured') return '*'
    return code === 'origin_not_allowed' ? echoedOrigin(verdict) : null
  }

  /** A page outside `origins` that may send the request after this preflight, to read its error. */
  #readableAfter({ url }: Visit, verdict: OriginVerdict, route: Route | undefined): ReadableOrigin {
    if (route === undefined || route.name === 'health') return null
    if (this.#faultsAt(url).length > 0) return this.#readableProblem('misconfigured', verdict)
    return route.guarded ? this.#readableProblem('origin_not_allowed', verdict) : null
  }

  async #reply(visit: Visit, verdict: OriginVerdict, found: Match | undefined): Promise<Reply> {
    const { request } = visit
    if (found === undefined) throw notFound()
    const { route } = found
    visit.logFields.route = route.name
    if (route.name !== 'health') this.#refuseWithFaults(visit.url)
    const params = decoded(found.params)
    const handler = route.handlers.get(request.method === 'HEAD' ? 'GET' : request.method)
    if (handler === undefined) return this.#notAllowed(visit, route)
    if (route.guarded) await this.#guard(request, verdict)
    const { services } = this.#deps
    if (handler === null || services === null) return await this.#health(visit)
    return await handler(services, visit, params)
  }

  /** Faults of the configuration as the Worker is called here. */
  #faultsAt({ hostname }: URL): readonly Fault[] {
    const { faults, publicFaults } = this.#deps
    return publicFaults.length === 0 || isLoopback(hostname) ? faults : [...faults, ...publicFaults]
  }

  #refuseWithFaults(url: URL): void {
    const faults = this.#faultsAt(url)
    if (faults.length === 0) return
    // The faults of CONFIG were reported when it was read.
    if (faults.length > this.#deps.faults.length && !this.#publicFaultsReported) {
      this.#publicFaultsReported = true
      this.#deps.report({ event: 'misconfigured', faults: this.#deps.publicFaults })
    }
    throw new GatewayError('misconfigured', messages.misconfigured)
  }

  /** `GET /health`: faults for everybody, warnings for the operator. */
  async #health({ url, request }: Visit): Promise<Reply> {
    const faults = this.#faultsAt(url)
    if (faults.length > 0) return jsonReply({ status: 'misconfigured', faults }, 503)
    if (!(await this.#isOperator(request))) return jsonReply({ status: 'ok' })
    const { warnings, publicFaults, endings } = this.#deps
    const here = publicFaults.map(({ path, message }) => `${path}: ${message}`)
    return jsonReply({ status: 'ok', warnings: [...warnings, ...here, ...(await endings())] })
  }

  async #guard(request: Request, verdict: OriginVerdict): Promise<void> {
    if (verdict.kind === 'refused') {
      throw new GatewayError('origin_not_allowed', refusalOf(originForLog(verdict)))
    }
    const required = this.#deps.originRequired && request.method === 'POST'
    if (verdict.kind === 'absent' && required && !(await this.#isOperator(request))) {
      throw new GatewayError(
        'origin_not_allowed',
        'Cannot find the header "Origin": this endpoint requires it (origin_required)',
      )
    }
  }

  async #isOperator({ headers }: Request): Promise<boolean> {
    return (await this.#deps.services?.isOperator(headers)) ?? false
  }

  #notAllowed(visit: Visit, { handlers }: Route): Reply {
    const names = [...handlers.keys()]
    const allow = (names.includes('GET') ? ['HEAD', ...names] : names).sort().join(', ')
    const message = `Cannot use this method: expected ${allow}`
    return this.#problem(new GatewayError('method_not_allowed', message), visit, { allow })
  }

  #problem(error: unknown, visit: Visit, headers: Record<string, string> = {}): Reply {
    const unexpected = !(error instanceof GatewayError)
    const left = unexpected && visit.request.signal.aborted
    if (unexpected && !left) this.#deps.report(internalEvent(error, visit.id))
    const problem = problemOf(error)
    visit.close(left ? CLIENT_LEFT : statusOf(problem.code), left ? null : problem.code)
    return problemReply(problem, { ...visit.headers, ...headers })
  }
}

function notFound(): GatewayError {
  return new GatewayError('not_found', messages.not_found)
}

/** Names the origin and the setting that allows it: the reader is often the owner. */
function refusalOf(origin: string | null): string {
  if (origin === null) {
    return 'Cannot use the header "Origin": expected an origin listed in "origins", such as https://example.com'
  }
  if (origin === 'null') {
    return 'This page has no origin, as it is a file or in a sandboxed frame. Open it from a web server, and add its origin to "origins" in wrangler.toml.'
  }
  return `This endpoint does not accept requests from ${origin}. Its owner can add that origin to "origins" in wrangler.toml.`
}

/** @throws GatewayError `not_found` if a parameter is not valid UTF-8 */
function decoded(params: Params): Params {
  try {
    return mapped(Object.entries(params), decodeURIComponent)
  } catch {
    throw notFound()
  }
}
