// The whole service as `fetch(Request) → Response`: which route answers, and what every response of
// the Worker has in common. Knows no platform: worker.ts hands it everything.
import { IttyRouter } from 'itty-router'
import type { Operator } from './access/operator.ts'
import { GatewayError, problemOf } from './errors.ts'
import { internalEvent } from './events.ts'
import type { Fault } from './faults.ts'
import {
  corsHeaders,
  isLoopback,
  isPreflight,
  judgeOrigin,
  type OriginVerdict,
  preflightReply,
} from './http/cors.ts'
import { problemReply, statusOf } from './http/problem.ts'
import { jsonReply, type Reply } from './http/reply.ts'
import type { Admin } from './routes/admin.ts'
import type { Completions } from './routes/completions.ts'
import { listModels, listPrompts, type Offer, showModel } from './routes/models.ts'
import type { OpenApi } from './routes/openapi.ts'
import { CLIENT_LEFT, Visit, type VisitContext } from './routes/visit.ts'
import type { NewVisitors } from './routes/visitors.ts'

export interface AppOptions {
  readonly origins: readonly string[]
  readonly originRequired: boolean
  /** A secret is one for trying out: only a Worker on a loopback host serves. */
  readonly localOnly: boolean
  /** What GET /health warns the owner of. */
  readonly warnings: readonly string[]
}

export interface AppContext extends VisitContext {
  readonly newUuid: () => string
}

/** What there is to serve; with faults only GET /health, and why everything else is refused. */
export type Service =
  | { readonly faults: readonly Fault[] }
  | {
      readonly faults: null
      readonly completions: Completions
      readonly visitors: NewVisitors
      readonly admin: Admin
      readonly operator: Operator
      readonly offer: Offer
      readonly openApi: OpenApi
    }

type Handler = (visit: Visit, params: Readonly<Record<string, string>>) => Reply | Promise<Reply>

interface Route {
  readonly name: string
  /** Only pages of allowed origins may use it. */
  readonly guarded: boolean
  readonly methods: Readonly<Record<string, Handler>>
}

export class App {
  readonly #options: AppOptions
  readonly #context: AppContext
  readonly #operator: Operator | null
  /** By path, where that is all there is to it. */
  readonly #routes: ReadonlyMap<string, Match>
  readonly #match: (request: Request) => Promise<Match | undefined>

  constructor(options: AppOptions, context: AppContext, service: Service) {
    this.#options = options
    this.#context = context
    this.#operator = service.faults === null ? service.operator : null
    const routes = routesOf(service, options)
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
    const verdict = judgeOrigin(request, visit.url, this.#options)
    if (verdict.kind === 'allowed') visit.noted.origin = verdict.origin
    const { status, headers, body } = await this.#reply(visit, verdict).catch((error: unknown) =>
      this.#problem(error, visit),
    )
    if (!visit.streaming) visit.close(status, null)
    return new Response(request.method === 'HEAD' ? null : body, {
      status,
      headers: {
        vary: 'Origin',
        ...headers,
        ...corsHeaders(verdict),
        'x-request-id': id,
        'x-content-type-options': 'nosniff',
      },
    })
  }

  async #reply(visit: Visit, verdict: OriginVerdict): Promise<Reply> {
    const { request } = visit
    if (isPreflight(request)) {
      visit.noted.route = 'preflight'
      return preflightReply(request, verdict)
    }
    const found = this.#routes.get(visit.url.pathname) ?? (await this.#match(request))
    if (found === undefined) throw notFound()
    const { route, params } = found
    visit.noted.route = route.name
    const method = request.method === 'HEAD' ? 'GET' : request.method
    const handler = Object.hasOwn(route.methods, method) ? route.methods[method] : undefined
    if (handler === undefined) return this.#notAllowed(visit, route)
    if (route.guarded) await this.#guard(request, verdict)
    if (route.guarded && this.#isTestElsewhere(visit)) refuse()
    return await handler(visit, params)
  }

  async #guard(request: Request, verdict: OriginVerdict): Promise<void> {
    if (verdict.kind === 'refused') {
      throw new GatewayError(
        'origin_not_allowed',
        'Cannot be called from this page: its origin is not in the list "origins" of this endpoint\'s owner',
      )
    }
    const required = this.#options.originRequired && request.method === 'POST'
    if (verdict.kind === 'absent' && required && !(await this.#isOperator(request))) {
      throw new GatewayError(
        'origin_not_allowed',
        "Cannot be called without an Origin header: this endpoint's owner has set origin_required",
      )
    }
  }

  #isTestElsewhere({ url }: Visit): boolean {
    return this.#options.localOnly && !isLoopback(url.hostname)
  }

  async #isOperator({ headers }: Request): Promise<boolean> {
    return (await this.#operator?.isOperator(headers)) ?? false
  }

  #notAllowed(visit: Visit, { methods }: Route): Reply {
    const names = Object.keys(methods)
    const allow = (names.includes('GET') ? ['HEAD', ...names] : names).sort().join(', ')
    const error = new GatewayError(
      'method_not_allowed',
      `Cannot use this method here: allowed are ${allow}`,
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
  return new GatewayError('not_found', 'Cannot find this path: completions are at /v1/completions')
}

function routesOf(service: Service, options: AppOptions): Record<string, Route> {
  const { warnings, localOnly } = options
  const health = ({ url }: Visit): Reply => {
    const faults = service.faults ?? (localOnly && !isLoopback(url.hostname) ? [testSecret] : [])
    return faults.length === 0
      ? jsonReply({ status: 'ok', warnings })
      : jsonReply({ status: 'misconfigured', faults }, 503)
  }
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
          ({ offer }) =>
            () =>
              listModels(offer),
        ),
      },
    },
    '/v1/models/:id+': {
      name: 'models',
      guarded: true,
      methods: {
        GET: served(
          ({ offer }) =>
            (_, { id = '' }) =>
              showModel(offer, id),
        ),
      },
    },
    '/v1/prompts': {
      name: 'prompts',
      guarded: true,
      methods: {
        GET: served(
          ({ offer }) =>
            () =>
              listPrompts(offer),
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
    '/health': { name: 'health', guarded: false, methods: { GET: health } },
  }
}

type Ready = Extract<Service, { faults: null }>

const testSecret: Fault = {
  path: 'TURNSTILE_SECRET',
  message: 'Cannot use a test secret here: it lets everybody in, set the one of your widget',
}

function refuse(): never {
  throw new GatewayError(
    'misconfigured',
    'Cannot serve: the owner has to mend the configuration, GET /health says where',
  )
}

interface Match {
  readonly route: Route
  readonly params: Readonly<Record<string, string>>
}

/** Matching is itty-router's; what to do with a match is ours. */
function matcher(routes: Record<string, Route>): (request: Request) => Promise<Match | undefined> {
  const router = IttyRouter()
  for (const [path, route] of Object.entries(routes)) {
    router.all(path, ({ params }): Match => ({ route, params: decoded(params) }))
  }
  // It writes on what it is given, so it gets no Request.
  return ({ method, url }) => router.fetch({ method, url })
}

function decoded(params: Readonly<Record<string, string>>): Record<string, string> {
  try {
    return Object.fromEntries(
      Object.entries(params).map(([name, value]) => [name, decodeURIComponent(value)]),
    )
  } catch {
    throw notFound()
  }
}
