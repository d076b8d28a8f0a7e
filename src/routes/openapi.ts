// `GET /openapi.json`: the whole service as OpenAPI 3.1, made from the schemas that validate and the
// closed list of errors. Holds nothing an owner would not show: no prompt, no upstream, no key.
import type { RequestLimits } from '../completion/request.ts'
import type { Code } from '../errors.ts'
import { statusOf } from '../http/problem.ts'
import type { Reply } from '../http/reply.ts'
import { MAX_HOURS } from './admin.ts'
import { type Json, schemasOf, type Table } from './openapi-schemas.ts'

export interface OpenApiOptions {
  readonly limits: RequestLimits
  /** Whether visitors may send prompts of their own. */
  readonly freePrompts: boolean
  /** Public, as it stands in every page that has the challenge; "": no challenge. */
  readonly turnstileSitekey: string
}

/** Made when it is first asked for, then kept. */
export class OpenApi {
  readonly #options: OpenApiOptions
  #body: string | null = null

  constructor(options: OpenApiOptions) {
    this.#options = options
  }

  get(): Reply {
    this.#body ??= JSON.stringify(openApi(this.#options))
    const headers = { 'content-type': 'application/json', 'cache-control': 'no-cache' }
    return { status: 200, headers, body: this.#body }
  }
}

const schema = (name: string): Table => ({ $ref: `#/components/schemas/${name}` })
const json = (name: string): Table => ({ 'application/json': { schema: schema(name) } })

const responseHeaders: Readonly<Record<string, string>> = {
  'X-Request-Id': 'Ours; also in errors and in the log.',
  'Cache-Status':
    'Where the answer came from (RFC 9211): `edge-completions; hit; ttl=…; detail=memory|kv|flight|stale`, `…; hit; detail=previous` (a prompt’s last answer, from before the prompt, its model or their parameters changed), `…; fwd=miss` with `; stored` or `; collapsed`, `…; fwd=request`, `…; fwd=bypass`.',
  Age: 'Seconds since the remembered answer was made.',
  ETag: 'Of this representation of the remembered answer.',
  'Cache-Control': '`public, max-age=…` on a hit of `GET`, else `no-store`.',
  'Server-Timing': '`cache;dur=…, upstream;dur=…`',
  'X-Usage-Estimated': '`1`: the upstream counted no tokens, `usage` is an estimate.',
  'Retry-After': 'Seconds; on every 429.',
  'X-Should-Retry': '`false`: an SDK should not repeat this.',
  'RateLimit-Policy': 'The limit that was reached.',
  RateLimit: 'What is left of it.',
  Vary: 'Always has `Origin`.',
}
const headersOf = (...wanted: readonly string[]): Table =>
  Object.fromEntries(
    ['X-Request-Id', 'Vary', ...wanted].map((name) => [
      name,
      { $ref: `#/components/headers/${name}` },
    ]),
  )

const requestHeaders: Readonly<Record<string, string>> = {
  'X-Visitor-Token': 'From `POST /v1/visitors`, where this endpoint has Turnstile.',
  'Last-Event-ID':
    '`<completion id>:<characters of choice 0 received>`: a cut stream goes on from there.',
  'Cache-Control':
    '`only-if-cached`: a miss is `not_cached`; `no-store`: nothing is kept; `no-cache`: a new answer, for the operator only.',
  Accept: '`text/plain` above JSON: the bare text of choice 0.',
  'If-None-Match': 'The `ETag` of an answer you have.',
}
const header = (name: string): Table => ({ $ref: `#/components/parameters/${name}` })

/** What any route may answer with. */
const anywhere: readonly Code[] = ['origin_not_allowed', 'internal', 'misconfigured']
const bodyCodes: readonly Code[] = [
  'invalid_json',
  'invalid_value',
  'body_timeout',
  'body_too_large',
  'unsupported_media_type',
]
const askedCodes: readonly Code[] = [
  'invalid_value',
  'unknown_field',
  'missing_field',
  'model_not_allowed',
  'prompt_not_found',
  'free_prompts_disabled',
  'locked_by_owner',
  'unsupported_by_upstream',
  'visitor_token_invalid',
  'page_not_allowed',
  'not_cached',
]
/** A miss may meet everything that a route of the cache and the operator's cannot. */
const spendingCodes: readonly Code[] = [
  ...bodyCodes,
  ...askedCodes,
  'upstream_refused_request',
  'visitor_token_required',
  'rate_limited',
  'too_many_streams',
  'budget_exhausted',
  'upstream_rate_limited',
  'upstream_rejected',
  'upstream_bad_response',
  'upstream_truncated',
  'upstream_unavailable',
  'page_unavailable',
  'ledger_unavailable',
  'upstream_timeout',
]

/** A response for each status that these codes have. */
function problems(...possible: readonly Code[]): Table {
  const byStatus = Map.groupBy(new Set(possible), statusOf)
  return Object.fromEntries(
    [...byStatus].map(([status, some]) => {
      const limited = status === 429
      const headers = limited
        ? headersOf('Retry-After', 'X-Should-Retry', 'RateLimit-Policy', 'RateLimit')
        : headersOf()
      const description = some.map((code) => `\`${code}\``).join(', ')
      return [String(status), { description, headers, content: json('Error') }]
    }),
  )
}

function operation(
  id: string,
  summary: string,
  response: Table,
  possible: readonly Code[],
  more: Table = {},
): Table {
  const ok = { headers: headersOf(), ...response }
  const responses = { '200': ok, ...problems(...possible) }
  return { operationId: id, summary, ...more, responses }
}

/** Both, since `text/plain` spares a browser the preflight. */
const anyBody = (name: string): Table => ({
  required: true,
  content: { ...json(name), 'text/plain': { schema: schema(name) } },
})

const operator: Table = { security: [{ operator: [] }] }
const file = (type: string): Table => ({
  description: 'A file',
  headers: {},
  content: { [type]: { schema: { type: 'string' } } },
})

const answerHeaders = ['Cache-Status', 'Age', 'ETag', 'Cache-Control', 'Server-Timing']
const completionBody: Table = {
  ...json('Completion'),
  'text/event-stream': {
    schema: {
      type: 'string',
      description:
        'One `data: <Chunk>` an event, then `data: [DONE]`. A failure in the middle is `data: <Error>`, and no `[DONE]`.',
    },
  },
  'text/plain': { schema: { type: 'string' } },
}

const variables: Table = {
  type: 'object',
  patternProperties: { '^var\\.': { type: 'string' } },
  additionalProperties: false,
}

/** Fields of a body that a query can hold: those of one plain type. */
function queryParameters(request: Table): Json[] {
  const fields = Object.entries(request['properties'] as Record<string, Table>)
  return [
    query('prompt', { type: 'string', minLength: 1 }, 'A free prompt.'),
    query('prompt_id', { type: 'string' }, 'A locked prompt, in place of `prompt`.'),
    {
      ...query('variables', variables, 'Variables of the locked prompt, each as `var.<name>=…`.'),
      style: 'form',
      explode: true,
    },
    query('stop', { type: 'array', items: { type: 'string' } }, 'May repeat.'),
    ...fields.flatMap(([name, field]) => {
      const [type] = (field['type'] ?? []) as readonly string[]
      return type === undefined || type === 'object' ? [] : [query(name, { ...field, type }, '')]
    }),
  ]
}

function query(name: string, field: Table, description: string): Table {
  return { name, in: 'query', ...(description === '' ? {} : { description }), schema: field }
}

function pathsOf(schemas: Table): Table {
  return {
    '/v1/completions': {
      post: operation(
        'createCompletion',
        'A completion of a prompt; of the cache, or of the upstream',
        {
          description: 'The completion, whole or as a stream',
          headers: headersOf(...answerHeaders, 'X-Usage-Estimated'),
          content: completionBody,
        },
        [...anywhere, ...spendingCodes],
        {
          parameters: ['X-Visitor-Token', 'Last-Event-ID', 'Cache-Control', 'Accept'].map(header),
          requestBody: anyBody('CompletionRequest'),
          security: [{}, { visitor: [] }, { operator: [] }],
        },
      ),
      get: operation(
        'getCachedCompletion',
        'The same from the cache only: never spends, needs no preflight',
        {
          description: 'The remembered completion',
          headers: headersOf(...answerHeaders, 'X-Usage-Estimated'),
          content: completionBody,
        },
        [...anywhere, ...askedCodes],
        {
          parameters: [
            ...queryParameters(schemas['CompletionRequest'] as Table),
            ...['X-Visitor-Token', 'Accept', 'If-None-Match'].map(header),
          ],
          security: [{}, { visitor: [] }, { operator: [] }],
        },
      ),
    },
    '/v1/models': {
      get: operation(
        'listModels',
        'The models that visitors may ask for; the first is the default',
        { description: 'OpenAI’s list object', content: json('ModelList') },
        anywhere,
      ),
    },
    '/v1/models/{id}': {
      get: operation(
        'getModel',
        'One of them',
        { description: 'OpenAI’s model object', content: json('Model') },
        [...anywhere, 'model_not_found'],
        { parameters: [{ name: 'id', in: 'path', required: true, schema: { type: 'string' } }] },
      ),
    },
    '/v1/prompts': {
      get: operation(
        'listPrompts',
        'The owner’s locked prompts: ids, variables and their limits, never the text',
        { description: 'A list object', content: json('PromptList') },
        anywhere,
      ),
    },
    '/v1/visitors': {
      post: operation(
        'createVisitor',
        'A solved Turnstile challenge in, a visitor token out; `404` where there is no challenge',
        {
          description: 'The token, to be sent as `X-Visitor-Token`',
          content: json('VisitorToken'),
        },
        [
          ...anywhere,
          ...bodyCodes,
          'unknown_field',
          'missing_field',
          'challenge_failed',
          'not_found',
          'challenge_unavailable',
        ],
        { requestBody: anyBody('Challenge') },
      ),
    },
    '/health': {
      get: {
        operationId: 'getHealth',
        summary: 'Whether it is configured, and every fault of the settings by its path',
        responses: {
          '200': { description: 'It serves', headers: headersOf(), content: json('Health') },
          '503': { description: 'Misconfigured', headers: headersOf(), content: json('Health') },
        },
      },
    },
    '/openapi.json': {
      get: operation(
        'getOpenApi',
        'This page',
        {
          description: 'OpenAPI 3.1',
          content: { 'application/json': { schema: { type: 'object' } } },
        },
        ['internal', 'misconfigured'],
      ),
    },
    '/admin/usage': {
      get: operation(
        'getUsage',
        'Today’s budget, days and hours with requests (oldest first), the last failed attempts, and today’s refused origins',
        { description: 'The figures', content: json('Usage') },
        [...anywhere, 'invalid_value', 'operator_token_invalid', 'ledger_unavailable'],
        {
          ...operator,
          parameters: [
            {
              name: 'hours',
              in: 'query',
              schema: { type: 'integer', minimum: 1, maximum: MAX_HOURS, default: 24 },
            },
          ],
        },
      ),
    },
    '/admin/pause': {
      post: operation(
        'pause',
        'Answers from the cache only, until a time (unix seconds); `null` resumes',
        { description: 'Until when', content: json('Paused') },
        [...anywhere, ...bodyCodes, 'operator_token_invalid', 'ledger_unavailable'],
        { ...operator, requestBody: anyBody('Pause') },
      ),
    },
    '/admin/purge': {
      post: operation(
        'purge',
        'Forgets remembered answers: all, of a request, of a locked prompt, of a model, or made from a page',
        { description: 'What was forgotten', content: json('Purged') },
        [...anywhere, ...bodyCodes, ...askedCodes, 'operator_token_invalid', 'not_found'],
        { ...operator, requestBody: anyBody('Purge') },
      ),
    },
    '/': { get: operation('getPlayground', 'The playground', file('text/html'), []) },
    '/admin': { get: operation('getDashboard', 'The operator’s dashboard', file('text/html'), []) },
    '/client.js': {
      get: operation(
        'getClient',
        'The browser client, an ES module for pages of any origin',
        file('text/javascript'),
        [],
      ),
    },
  }
}

function openApi({ limits, freePrompts, turnstileSitekey }: OpenApiOptions): Table {
  const schemas = schemasOf(limits)
  const described = (text: string): Table => ({ description: text, schema: { type: 'string' } })
  const mapped = (
    table: Readonly<Record<string, string>>,
    to: (text: string, name: string) => Table,
  ) => Object.fromEntries(Object.entries(table).map(([name, text]) => [name, to(text, name)]))
  return {
    openapi: '3.1.0',
    info: {
      title: 'edge-completions',
      version: '1',
      description: 'Text completions for pages without a key. `HEAD` mirrors `GET`.',
      license: { name: 'MIT', identifier: 'MIT' },
      'x-free-prompts': freePrompts,
      ...(turnstileSitekey === '' ? {} : { 'x-turnstile-sitekey': turnstileSitekey }),
    },
    servers: [{ url: '/' }],
    paths: pathsOf(schemas),
    components: {
      schemas,
      headers: mapped(responseHeaders, described),
      parameters: mapped(requestHeaders, (text, name) => ({
        name,
        in: 'header',
        ...described(text),
      })),
      securitySchemes: {
        visitor: { type: 'apiKey', in: 'header', name: 'X-Visitor-Token' },
        operator: { type: 'http', scheme: 'bearer' },
      },
    },
  }
}
