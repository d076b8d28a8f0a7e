// The whole service as `fetch(Request) → Response`: routing, the origin policy, errors, and the
// headers that every response has. Platform APIs are passed in by worker.ts.
import { IttyRouter } from 'itty-router'
import type { Operator } from './access/operator.ts'
import { type Code, GatewayError, messages, problemOf } from './errors.ts'
import { internalEvent } from './events.ts'
import { inPieces } from './http/bytes.ts'
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
import type { Admin } from './routes/admin.ts'
import type { Completions } from './routes/completions.ts'
import { type Catalog, listModels, listPrompts, showModel } from './routes/models.ts'
import type { OpenApi } from './routes/openapi-file.ts'
import { CLIENT_LEFT, Visit, type VisitContext } from './routes/request-log.ts'
import type { NewVisitors } from './routes/visitors.ts'
import type { Fault } from './validation.ts'

export interface AppOptions {
  readonly origins: readonly string[]
  readonly originRequired: boolean
  /** Faults on a public host; on a loopback host they are warnings. */
  readonly publicFaults: readonly Fault[]
  /** `GET /health` shows them to the operator. */
  readonly warnings: readonly string[]
}

export interface AppContext extends VisitContext {
  readonly newUuid: () => string
}

/**
 * The routes' services. With faults in the configuration, only GET /health and errors are served.
 */
export type Service =
  | { readonly faults: readonly Fault[] }
  | {
      readonly faults: null
      readonly completions: Completions
      readonly visitors: NewVisitors
      readonly admin: Admin
      readonly operator: Operator
      readonly catalog: Catalog
      readonly openApi: OpenApi
    }

type Handler = (visit: Visit, params: Readonly<Record<string, string>>) => Reply | Promise<Reply>

interface Route {
  readonly name: string
  /** Served even if the configuration has faults. */
  readonly always?: boolean
  /** Restricted to pages of allowed origins. */
  readonly guarded: boolean
  readonly methods: Readonly<Record<string, Handler>>
}

export class App {
  readonly #options: AppOptions
  readonly #context: AppContext
  readonly #operator: Operator | null
  /** Routes without parameters, by path. */
  readonly #routes: ReadonlyMap<string, Match>
  readonly #match: (request: Request) => Promise<Match | undefined>
  readonly #faults: readonly Fault[]
  #publicFaultsReported = false

  constructor(options: AppOptions, context: AppContext, service: Service) {
    this.#options = options
    this.#context = context
    this.#operator = service.faults === null ? service.operator : null
    this.#faults = service.faults ?? []
    const routes = routesOf(service, (visit) => this.#health(visit))
    this.#routes = new Map(
      Object.entries(routes)
        .filter(([path]) => !path.includes(':'))
        .map(([path, route]) => [path, { route, params: {} }]),
    )
    this.#match = matcher(routes)
  }

  async fetch(request: Request): Promise<Response> {
    const id = `req_${this.#context.newUuid().replaceAll('-', '')}`
    const visit = new Visit(request, id, this.#context)
    const verdict = checkOrigin(request, visit.url, this.#options)
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

  async #answer(
    visit: Visit,
    verdict: OriginVerdict,
  ): Promise<{ readonly reply: Reply; readonly readableOrigin: ReadableOrigin }> {
    const allowed = verdict.kind === 'allowed' ? verdict.origin : null
    try {
      const found = this.#routes.get(visit.url.pathname) ?? (await this.#match(visit.request))
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
    if (route === undefined || route.always) return null
    if (this.#faultsAt(url).length > 0) return this.#readableProblem('misconfigured', verdict)
    return route.guarded ? this.#readableProblem('origin_not_allowed', verdict) : null
  }

  async #reply(visit: Visit, verdict: OriginVerdict, found: Match | undefined): Promise<Reply> {
    const { request } = visit
    if (found === undefined) throw notFound()
    const { route } = found
    visit.logFields.route = route.name
    if (!route.always) this.#refuseWithFaults(visit.url)
    const params = decoded(found.params)
    const method = request.method === 'HEAD' ? 'GET' : request.method
    const handler = Object.hasOwn(route.methods, method) ? route.methods[method] : undefined
    if (handler === undefined) return this.#notAllowed(visit, route)
    if (route.guarded) await this.#guard(request, verdict)
    return await handler(visit, params)
  }

  /** Faults of the configuration as the Worker is called here. */
  #faultsAt({ hostname }: URL): readonly Fault[] {
    const { publicFaults } = this.#options
    if (publicFaults.length === 0 || isLoopback(hostname)) return this.#faults
    return [...this.#faults, ...publicFaults]
  }

  #refuseWithFaults(url: URL): void {
    const faults = this.#faultsAt(url)
    if (faults.length === 0) return
    // The faults of CONFIG were reported when it was read.
    if (faults.length > this.#faults.length && !this.#publicFaultsReported) {
      this.#publicFaultsReported = true
      this.#context.report({ event: 'misconfigured', faults: this.#options.publicFaults })
    }
    refuse()
  }

  /** `GET /health`: faults for everybody, warnings for the operator. */
  async #health({ url, request }: Visit): Promise<Reply> {
    const faults = this.#faultsAt(url)
    if (faults.length > 0) return jsonReply({ status: 'misconfigured', faults }, 503)
    if (!(await this.#isOperator(request))) return jsonReply({ status: 'ok' })
    const { warnings, publicFaults } = this.#options
    const here = publicFaults.map(({ path, message }) => `${path}: ${message}`)
    return jsonReply({ status: 'ok', warnings: [...warnings, ...here] })
  }

  async #guard(request: Request, verdict: OriginVerdict): Promise<void> {
    if (verdict.kind === 'refused') {
      throw new GatewayError('origin_not_allowed', refusalOf(originForLog(verdict)))
    }
    const required = this.#options.originRequired && request.method === 'POST'
    if (verdict.kind === 'absent' && required && !(await this.#isOperator(request))) {
      throw new GatewayError(
        'origin_not_allowed',
        'Cannot find the header "Origin": this endpoint requires it (origin_required)',
      )
    }
  }

  async #isOperator({ headers }: Request): Promise<boolean> {
    return (await this.#operator?.isOperator(headers)) ?? false
  }

  #notAllowed(visit: Visit, { methods }: Route): Reply {
    const names = Object.keys(methods)
    const allow = (names.includes('GET') ? ['HEAD', ...names] : names).sort().join(', ')
    const error = new GatewayError(
      'method_not_allowed',
      `Cannot use this method: expected ${allow}`,
    )
    return this.#problem(error, visit, { allow })
  }

  #problem(error: unknown, visit: Visit, headers: Record<string, string> = {}): Reply {
    const left = visit.request.signal.aborted && !(error instanceof GatewayError)
    if (!left && !(error instanceof GatewayError)) {
      this.#context.report(internalEvent(error, visit.id))
    }
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
    return 'This page has no origin, as it is a file or in a sandboxed frame. Open it from a web server and add its address to "origins" in wrangler.toml.'
  }
  return `This endpoint does not accept requests from ${origin}. Its owner can add that origin to "origins" in wrangler.toml.`
}

function routesOf(service: Service, health: Handler): Record<string, Route> {
  const served = (handler: (ready: Ready) => Handler): Handler =>
    service.faults === null ? handler(service) : refuse
  return {
    '/v1/completions': {
      name: 'completions',
      guarded: true,
      methods: {
        GET: served(
          ({ completions }) =>
            (visit) =>
              completions.get(visit),
        ),
        POST: served(
          ({ completions }) =>
            (visit) =>
              completions.post(visit),
        ),
      },
    },
    '/v1/visitors': {
      name: 'visitors',
      guarded: true,
      methods: {
        POST: served(
          ({ visitors }) =>
            (visit) =>
              visitors.post(visit),
        ),
      },
    },
    '/v1/models': {
      name: 'models',
      guarded: true,
      methods: {
        GET: served(
          ({ catalog }) =>
            () =>
              listModels(catalog),
        ),
      },
    },
    '/v1/models/:id+': {
      name: 'models',
      guarded: true,
      methods: {
        GET: served(
          ({ catalog }) =>
            (_, { id = '' }) =>
              showModel(catalog, id),
        ),
      },
    },
    '/v1/prompts': {
      name: 'prompts',
      guarded: true,
      methods: {
        GET: served(
          ({ catalog }) =>
            () =>
              listPrompts(catalog),
        ),
      },
    },
    '/admin/purge': {
      name: 'purge',
      guarded: true,
      methods: {
        POST: served(
          ({ admin }) =>
            (visit) =>
              admin.purge(visit),
        ),
      },
    },
    '/admin/pause': {
      name: 'pause',
      guarded: true,
      methods: {
        POST: served(
          ({ admin }) =>
            (visit) =>
              admin.pause(visit),
        ),
      },
    },
    '/admin/usage': {
      name: 'usage',
      guarded: true,
      methods: {
        GET: served(
          ({ admin }) =>
            (visit) =>
              admin.usage(visit),
        ),
      },
    },
    '/openapi.json': {
      name: 'openapi',
      guarded: false,
      methods: {
        GET: served(
          ({ openApi }) =>
            () =>
              openApi.get(),
        ),
      },
    },
    '/health': { name: 'health', guarded: false, always: true, methods: { GET: health } },
  }
}

type Ready = Extract<Service, { faults: null }>

function refuse(): never {
  throw new GatewayError('misconfigured', messages.misconfigured)
}

interface Match {
  readonly route: Route
  /** Percent-encoded, as in the path. */
  readonly params: Readonly<Record<string, string>>
}

/** itty-router only finds the route; its handlers return the match instead of a response. */
function matcher(routes: Record<string, Route>): (request: Request) => Promise<Match | undefined> {
  const router = IttyRouter()
  for (const [path, route] of Object.entries(routes)) {
    router.all(path, ({ params }): Match => ({ route, params }))
  }
  // The router adds properties to the object it gets, so it must not be the Request.
  return ({ method, url }) => router.fetch({ method, url })
}

/** @throws GatewayError `not_found` if a parameter is not valid UTF-8 */
function decoded(params: Readonly<Record<string, string>>): Record<string, string> {
  try {
    return Object.fromEntries(
      Object.entries(params).map(([name, value]) => [name, decodeURIComponent(value)]),
    )
  } catch {
    throw notFound()
  }
}
