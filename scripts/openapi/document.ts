// The whole service as OpenAPI 3.1, generated from the validating schemas and the list of error
// codes. Contains no prompt, no upstream and no key. scripts/build-site.ts writes the document to a
// static file, which src/routes/openapi.ts serves.

import type { Code } from '../../src/errors.ts'
import { statusOf } from '../../src/http/problem.ts'
import type { ChatLimits } from '../../src/request/chat.ts'
import { MAX_HOURS } from '../../src/routes/admin.ts'
import { DEFAULT_RESULTS, MAX_QUESTION_CHARS, MAX_RESULTS } from '../../src/routes/search.ts'
import type { Json, Table } from './json-schema.ts'
import { schemasOf } from './schemas.ts'

const schema = (name: string): Table => ({ $ref: `#/components/schemas/${name}` })
const json = (name: string): Table => ({ 'application/json': { schema: schema(name) } })

const responseHeaders: Readonly<Record<string, string>> = {
  'X-Request-Id': 'The id of this request, as in the log.',
  'Cache-Status':
    'How the answer was served (RFC 9211): `edge-completions; hit; ttl=…; detail=memory|kv|flight|stale`, `…; hit; detail=previous` (a prompt’s last answer, from before the prompt, its model or their parameters changed), `…; fwd=miss` with `; stored` or `; collapsed`, `…; fwd=request`, `…; fwd=bypass`.',
  Age: 'Seconds since the cached answer was generated.',
  ETag: 'Identifies this representation of the cached answer.',
  'Cache-Control': '`public, max-age=…` on a hit of `GET`, else `no-store`.',
  Link: 'Of an answer made from passages of the site: a link to each, in the order of their numbers.',
  'Server-Timing': '`cache;dur=…, upstream;dur=…`',
  'X-Usage-Estimated': '`1`: the upstream reported no usage, `usage` is an estimate.',
  'Retry-After': 'Seconds; on every 429.',
  'X-Should-Retry': '`false`: SDKs should not retry this request.',
  'RateLimit-Policy': 'The limit that was reached.',
  RateLimit: 'The remaining quota of that limit.',
  'X-Vercel-AI-UI-Message-Stream': '`v1`: the version of the AI SDK’s UI message stream.',
  Vary: 'Always includes `Origin`.',
}
const headersOf = (...extra: readonly string[]): Table =>
  Object.fromEntries(
    ['X-Request-Id', 'Vary', ...extra].map((name) => [
      name,
      { $ref: `#/components/headers/${name}` },
    ]),
  )

const requestHeaders: Readonly<Record<string, string>> = {
  'X-Visitor-Token': 'From `POST /v1/visitors`, if this endpoint uses Turnstile.',
  'Last-Event-ID':
    '`<completion id>:<characters of choice 0 received>`: resumes an interrupted stream.',
  'Cache-Control':
    '`only-if-cached`: a miss is `not_cached`; `no-store`: the answer is not stored; `no-cache`: a new answer, for the operator only.',
  Accept: '`text/plain` preferred to JSON: the bare text of choice 0.',
  'If-None-Match': 'The `ETag` of an answer you already have.',
}
const header = (name: string): Table => ({ $ref: `#/components/parameters/${name}` })

/** Errors of every route. */
const anywhere: readonly Code[] = ['origin_not_allowed', 'internal', 'misconfigured']
const bodyCodes: readonly Code[] = [
  'invalid_json',
  'invalid_value',
  'body_timeout',
  'body_too_large',
  'unsupported_media_type',
]
const requestCodes: readonly Code[] = [
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
  'no_passages',
]
/** Errors of a search, also of one for the passages of a prompt. */
const searchCodes: readonly Code[] = ['site_not_indexed', 'rate_limited', 'search_unavailable']
/** Errors of requests that may call an upstream. */
const spendingCodes: readonly Code[] = [
  ...bodyCodes,
  ...requestCodes,
  ...searchCodes,
  'upstream_refused_request',
  'visitor_token_required',
  'too_many_streams',
  'budget_exhausted',
  'paused',
  'upstream_rate_limited',
  'upstream_rejected',
  'upstream_bad_response',
  'upstream_truncated',
  'upstream_unavailable',
  'page_unavailable',
  'ledger_unavailable',
  'upstream_timeout',
]
/** Only the body of a completion can name a locked prompt that does not exist. */
const chatCodes = spendingCodes.filter((code) => code !== 'prompt_not_found')

/** One response for each status of these codes. */
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

/** JSON, also as `text/plain`, which needs no CORS preflight. */
function anyBody(...names: readonly [string, ...string[]]): Table {
  const [first, ...others] = names.map(schema) as [Table, ...Table[]]
  const body = { schema: others.length === 0 ? first : { anyOf: [first, ...others] } }
  return { required: true, content: { 'application/json': body, 'text/plain': body } }
}

const idInPath: Table = { name: 'id', in: 'path', required: true, schema: { type: 'string' } }
const operator: Table = { security: [{ operator: [] }] }
const file = (type: string): Table => ({
  description: 'A file',
  headers: {},
  content: { [type]: { schema: { type: 'string' } } },
})

const answerHeaders = ['Cache-Status', 'Age', 'ETag', 'Cache-Control', 'Server-Timing', 'Link']
/**
 * Some programs read this schema as that of the whole text, others as that of one event, an object.
 * It is true of both: a text has no properties.
 */
const stream = (event: string, failure: string): Table => ({
  'text/event-stream': {
    schema: {
      description: `One \`data: <${event}>\` per event, then \`data: [DONE]\`. If the answer fails midway, the last event is ${failure} without \`[DONE]\`.`,
      properties: { data: { anyOf: [{ const: '[DONE]' }, jsonText(event, 'Error')] } },
    },
  },
})
/** A text that is JSON of one of these schemas. */
const jsonText = (...names: readonly string[]): Table => ({
  type: 'string',
  contentMediaType: 'application/json',
  contentSchema: { anyOf: names.map(schema) },
})
/** The forms of an answer: one object, events with a part of it each, or bare text. */
const answerBody = (whole: string, event: string): Table => ({
  ...json(whole),
  ...stream(event, '`data: <Error>`'),
  'text/plain': { schema: { type: 'string' } },
})
const completionBody = answerBody('Completion', 'Chunk')

const variables: Table = {
  type: 'object',
  patternProperties: { '^var\\.': { type: 'string' } },
  additionalProperties: false,
}

/** The body's fields that a query can carry: those with a single primitive type. */
function queryParameters(request: Table): Json[] {
  const fields = Object.entries(request['properties'] as Record<string, Table>)
  return [
    query('prompt', { type: 'string', minLength: 1 }, 'A free prompt.'),
    query('prompt_id', { type: 'string' }, 'A locked prompt, instead of `prompt`.'),
    {
      ...query('variables', variables, 'Variables of the locked prompt, each as `var.<name>=…`.'),
      style: 'form',
      explode: true,
    },
    query('stop', { type: 'array', items: { type: 'string' } }, 'May be repeated.'),
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
        'Completes a prompt, from the cache or an upstream',
        {
          description: 'The completion, as one body or as a stream',
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
        'Returns a cached completion: never calls an upstream and needs no CORS preflight',
        {
          description: 'The cached completion',
          headers: headersOf(...answerHeaders, 'X-Usage-Estimated'),
          content: completionBody,
        },
        [...anywhere, ...requestCodes, ...searchCodes],
        {
          parameters: [
            ...queryParameters(schemas['CompletionRequest'] as Table),
            ...['X-Visitor-Token', 'Accept', 'If-None-Match'].map(header),
          ],
          security: [{}, { visitor: [] }, { operator: [] }],
        },
      ),
    },
    '/v1/chat/completions': {
      post: operation(
        'createChatCompletion',
        'Answers a conversation, from the cache or an upstream',
        {
          description: 'The answer, as one body or as a stream',
          headers: headersOf(...answerHeaders, 'X-Usage-Estimated'),
          content: answerBody('ChatCompletion', 'ChatChunk'),
        },
        [...anywhere, ...chatCodes],
        {
          parameters: ['X-Visitor-Token', 'Last-Event-ID', 'Cache-Control', 'Accept'].map(header),
          requestBody: anyBody('ChatRequest'),
          security: [{}, { visitor: [] }, { operator: [] }],
        },
      ),
    },
    '/v1/ai-sdk': {
      post: operation(
        'createUiMessage',
        'Answers the AI SDK’s hooks `useCompletion` and `useChat`, always as a stream',
        {
          description: 'The UI message stream: a message with one part of text',
          headers: headersOf(
            ...answerHeaders,
            'X-Usage-Estimated',
            'X-Vercel-AI-UI-Message-Stream',
          ),
          content: stream('UiMessageChunk', 'one of the type `error`'),
        },
        [...anywhere, ...spendingCodes],
        {
          parameters: ['X-Visitor-Token', 'Cache-Control'].map(header),
          requestBody: anyBody('AiSdkCompletionRequest', 'AiSdkChatRequest'),
          security: [{}, { visitor: [] }, { operator: [] }],
        },
      ),
    },
    '/v1/ai-sdk/{id}/stream': {
      get: {
        operationId: 'resumeUiMessage',
        summary: 'What `useChat` asks for with `resume`: there is never a stream to go on with',
        parameters: [idInPath],
        responses: {
          '204': { description: 'No stream', headers: headersOf('Cache-Control') },
          ...problems(...anywhere, 'not_found'),
        },
      },
    },
    '/v1/search': {
      get: operation(
        'searchSite',
        'Finds passages of the owner’s site, best first: never spends and needs no CORS preflight',
        {
          description: 'A list object; any word of `q` may match',
          headers: headersOf('Cache-Control'),
          content: json('PassageList'),
        },
        [...anywhere, 'invalid_value', 'unknown_field', 'missing_field', ...searchCodes],
        {
          parameters: [
            {
              ...query(
                'q',
                { type: 'string', minLength: 1, maxLength: MAX_QUESTION_CHARS },
                'A question or words.',
              ),
              required: true,
            },
            query(
              'limit',
              { type: 'integer', minimum: 1, maximum: MAX_RESULTS, default: DEFAULT_RESULTS },
              '',
            ),
          ],
        },
      ),
    },
    '/v1/models': {
      get: operation(
        'listModels',
        'Lists the models visitors may use; the first is the default',
        {
          description:
            'OpenAI’s list object. Locked prompts that take chats are in it, too, `owned_by` the `owner`.',
          content: json('ModelList'),
        },
        anywhere,
      ),
    },
    '/v1/models/{id}': {
      get: operation(
        'getModel',
        'Returns one model',
        { description: 'OpenAI’s model object', content: json('Model') },
        [...anywhere, 'model_not_found'],
        { parameters: [idInPath] },
      ),
    },
    '/v1/prompts': {
      get: operation(
        'listPrompts',
        'Lists the locked prompts: ids, variables and their limits, never the text',
        { description: 'A list object', content: json('PromptList') },
        anywhere,
      ),
    },
    '/v1/visitors': {
      post: operation(
        'createVisitor',
        'Exchanges a solved Turnstile challenge for a visitor token; `404` if Turnstile is off',
        {
          description: 'The token, to send as `X-Visitor-Token`',
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
        summary:
          'Reports whether the endpoint is configured; lists every configuration error by path',
        responses: {
          '200': { description: 'Configured', headers: headersOf(), content: json('Health') },
          '503': { description: 'Misconfigured', headers: headersOf(), content: json('Health') },
        },
      },
    },
    '/openapi.json': {
      get: operation(
        'getOpenApi',
        'This document',
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
        'Pauses generation until a time (unix seconds), serving cached answers only; `null` resumes it',
        { description: 'The end of the pause', content: json('Paused') },
        [...anywhere, ...bodyCodes, 'operator_token_invalid', 'ledger_unavailable'],
        { ...operator, requestBody: anyBody('Pause') },
      ),
    },
    '/admin/purge': {
      post: operation(
        'purge',
        'Purges cached answers: all, or those of a request, a locked prompt, a model or a page',
        { description: 'The kind of purge', content: json('Purged') },
        [...anywhere, ...bodyCodes, ...requestCodes, 'operator_token_invalid', 'not_found'],
        { ...operator, requestBody: anyBody('Purge') },
      ),
    },
    '/admin/site/page': {
      put: operation(
        'indexPage',
        'Reads a page of the site into the index that `/v1/search` asks',
        { description: 'What the index has of the page', content: json('IndexedPage') },
        [
          ...anywhere,
          ...bodyCodes,
          'operator_token_invalid',
          'page_not_allowed',
          'page_unavailable',
          'search_unavailable',
        ],
        { ...operator, requestBody: anyBody('SitePage') },
      ),
      delete: operation(
        'removePage',
        'Removes a page from the index',
        { description: 'Whether it was in the index', content: json('RemovedPage') },
        [
          ...anywhere,
          'invalid_value',
          'unknown_field',
          'missing_field',
          'operator_token_invalid',
          'search_unavailable',
        ],
        { ...operator, parameters: [{ ...query('url', { type: 'string' }, ''), required: true }] },
      ),
    },
    '/admin/site': {
      get: operation(
        'listSite',
        'Lists the pages in the index',
        { description: 'A list object', content: json('Site') },
        [...anywhere, 'operator_token_invalid', 'search_unavailable'],
        operator,
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
    '/client.d.ts': {
      get: operation('getClientTypes', 'The types of client.js', file('text/plain'), []),
    },
    '/elements.js': {
      get: operation(
        'getElements',
        'The web components, an ES module for pages of any origin',
        file('text/javascript'),
        [],
      ),
    },
    '/edge-ask.js': {
      get: operation(
        'getAsk',
        'The part of elements.js that it loads for <edge-ask>',
        file('text/javascript'),
        [],
      ),
    },
  }
}

export function openApiDocument(limits: ChatLimits): Table {
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
      description:
        'Completions and chats for web pages, without an API key. `HEAD` is supported wherever `GET` is.',
      license: { name: 'MIT', identifier: 'MIT' },
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
