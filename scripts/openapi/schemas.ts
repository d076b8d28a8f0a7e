// JSON Schemas of all requests and responses. Converted from the validating schemas where those
// exist; responses that are not validated at runtime are described here.
import * as v from 'valibot'
import { completionSchema, finishReasons } from '../../src/completion/completion.ts'
import { codes } from '../../src/errors.ts'
import { problemTypes } from '../../src/http/problem.ts'
import type { ChatLimits } from '../../src/request/chat.ts'
import { requestSchema } from '../../src/request/schema.ts'
import { pauseSchema, purgeSchema } from '../../src/routes/admin.ts'
import { sitePageSchema } from '../../src/routes/site.ts'
import { chatSchemas } from './chats.ts'
import { bodySchema, jsonSchema, type Table } from './json-schema.ts'

const count = v.pipe(v.number(), v.integer(), v.minValue(0))
const names = v.record(v.string(), count)
const usdByName = v.record(v.string(), v.number())
const priceByName = v.record(
  v.string(),
  v.nullable(v.strictObject({ input: v.number(), output: v.number() })),
)

const modelSchema = v.strictObject({
  id: v.string(),
  object: v.literal('model'),
  created: count,
  owned_by: v.string(),
})
const variableSchema = v.union([
  v.strictObject({ max_chars: count }),
  v.strictObject({ values: v.array(v.string()) }),
  v.strictObject({ from: v.literal('url'), paths: v.array(v.string()), max_chars: count }),
  v.strictObject({
    from: v.literal('site'),
    about: v.optional(v.string()),
    count,
    max_chars: count,
  }),
])
const promptSchema = v.strictObject({
  id: v.string(),
  object: v.literal('prompt'),
  variables: v.record(v.string(), variableSchema),
  visitor_may_set: v.array(v.string()),
})
const hourSchema = v.strictObject({
  hour: count,
  requests: count,
  hits: v.strictObject({ memory: count, kv: count, stale: count }),
  collapsed: count,
  misses: count,
  failed_misses: v.optional(count),
  kv_failures: count,
  errors: names,
  tokens_in: count,
  tokens_out: count,
  tokens_saved: count,
  usd: v.number(),
  usd_saved: v.number(),
  upstream_ms: v.strictObject({ p50: v.number(), p95: v.number() }),
  prompts: names,
  models: names,
  origins: names,
  usd_by: v.optional(v.strictObject({ prompts: usdByName, models: usdByName, origins: usdByName })),
})
const daySchema = v.strictObject({
  day: v.string(),
  tokens: count,
  usd: v.number(),
  requests: count,
  hits: count,
})
const failureSchema = v.strictObject({
  at: count,
  request_id: v.string(),
  upstream: v.string(),
  model: v.string(),
  code: v.picklist(codes),
  hint: v.nullable(v.string()),
})
const usageSchema = v.strictObject({
  now: count,
  budget: v.strictObject({
    tokens_per_day: count,
    spent: count,
    reserved: count,
    above_reservations: v.optional(count),
    usd_per_day: v.number(),
    usd_spent: v.number(),
    paused_until: v.nullable(count),
  }),
  days: v.array(daySchema),
  hours: v.array(hourSchema),
  failures: v.array(failureSchema),
  refused_origins: v.array(v.strictObject({ origin: v.string(), count, last: count })),
  prices: v.strictObject({ models: priceByName, prompts: priceByName }),
})
const passageSchema = v.strictObject({
  object: v.literal('passage'),
  url: v.string(),
  title: v.string(),
  heading: v.string(),
  text: v.string(),
  score: v.number(),
})
const siteSchema = v.strictObject({
  object: v.literal('list'),
  version: count,
  passages: count,
  indexed_at: v.nullable(count),
  data: v.array(
    v.strictObject({
      object: v.literal('page'),
      url: v.string(),
      title: v.string(),
      passages: count,
      questions: count,
      indexed_at: count,
    }),
  ),
})
const chunkSchema = v.strictObject({
  ...v.omit(completionSchema, ['choices', 'usage']).entries,
  choices: v.array(
    v.strictObject({
      ...completionSchema.entries.choices.pipe[0].item.entries,
      finish_reason: v.nullable(v.picklist(finishReasons)),
    }),
  ),
  usage: v.optional(v.nullable(completionSchema.entries.usage)),
})
const problemSchema = v.strictObject({
  error: v.strictObject({
    message: v.string(),
    type: v.picklist(problemTypes),
    param: v.nullable(v.string()),
    code: v.picklist(codes),
  }),
})

/** All schemas by their name below `#/components/schemas/`. */
export function schemasOf(limits: ChatLimits): Table {
  const CompletionRequest = bodySchema(requestSchema(limits))
  return {
    CompletionRequest,
    Completion: jsonSchema(completionSchema),
    Chunk: jsonSchema(chunkSchema),
    ...chatSchemas(limits, CompletionRequest),
    Error: jsonSchema(problemSchema),
    ModelList: jsonSchema(
      v.strictObject({ object: v.literal('list'), data: v.array(modelSchema) }),
    ),
    Model: jsonSchema(modelSchema),
    PromptList: jsonSchema(
      v.strictObject({ object: v.literal('list'), data: v.array(promptSchema) }),
    ),
    Health: jsonSchema(
      v.union([
        v.strictObject({ status: v.literal('ok'), warnings: v.optional(v.array(v.string())) }),
        v.strictObject({
          status: v.literal('misconfigured'),
          faults: v.array(v.strictObject({ path: v.string(), message: v.string() })),
        }),
      ]),
    ),
    Usage: jsonSchema(usageSchema),
    Purge: withRequestBodies(jsonSchema(purgeSchema) as Table),
    Purged: jsonSchema(
      v.strictObject({ purged: v.picklist(['all', 'request', 'prompt', 'model', 'page']) }),
    ),
    Pause: jsonSchema(pauseSchema),
    Paused: jsonSchema(v.strictObject({ paused_until: v.nullable(count) })),
    PassageList: jsonSchema(
      v.strictObject({ object: v.literal('list'), data: v.array(passageSchema) }),
    ),
    SitePage: jsonSchema(sitePageSchema),
    IndexedPage: jsonSchema(
      v.strictObject({
        url: v.string(),
        status: v.picklist(['indexed', 'unchanged']),
        passages: count,
        questions: count,
      }),
    ),
    RemovedPage: jsonSchema(v.strictObject({ url: v.string(), removed: v.boolean() })),
    Site: jsonSchema(siteSchema),
    Challenge: jsonSchema(v.strictObject({ token: v.string() })),
    VisitorToken: jsonSchema(v.strictObject({ token: v.string(), expires_at: count })),
  }
}

/** A `request` to purge is a body of one of the paths. */
function withRequestBodies({ anyOf, ...rest }: Table): Table {
  const bodies = ['CompletionRequest', 'ChatRequest', 'AiSdkCompletionRequest', 'AiSdkChatRequest']
  const request = { anyOf: bodies.map((name) => ({ $ref: `#/components/schemas/${name}` })) }
  const kinds = (anyOf as readonly Table[]).map((kind) =>
    'request' in (kind['properties'] as Table) ? { ...kind, properties: { request } } : kind,
  )
  return { ...rest, anyOf: kinds }
}
