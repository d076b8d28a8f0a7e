// The schema of CONFIG: types, ranges and defaults. config.ts checks settings against each other.
import * as v from 'valibot'
import { samplingFields, stopSchema } from '../request/schema.ts'
import { features, wires } from '../upstream/adapter.ts'
import { authStyles, presets } from '../upstream/presets.ts'
import { byName, finite, integer, listOf, looksSecret, oneOf, text } from '../validation.ts'

const flag = v.boolean('true or false')
/** The name of an upstream or a prompt. */
export const name = v.pipe(
  v.string('a string'),
  v.regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/, 'up to 64 letters, digits, ".", "_" and "-"'),
)
const count = integer(0)
const positive = integer(1)
const ms = integer(1, 600_000)
const seconds = integer(0)
const words = text(1, 65_536)
const parameters = byName(v.string(), v.unknown(), 'a table of upstream parameters')
/** What becomes of a call that nobody waits for any more. */
const abandon = oneOf(['finish', 'stop'])
const price = v.strictObject({
  input: finite(0, Number.POSITIVE_INFINITY),
  output: finite(0, Number.POSITIVE_INFINITY),
})
const fallback = v.strictObject(
  { upstream: name, upstream_model: text(1, 256), price: v.optional(price) },
  'a table',
)

const modelSchema = v.strictObject(
  {
    id: text(1, 128),
    upstream: name,
    upstream_model: text(1, 256),
    parameters: v.optional(parameters, {}),
    fallbacks: v.optional(v.array(fallback, 'a list of upstreams'), []),
    system: v.optional(words),
    chat_system: v.optional(words),
    price: v.optional(price),
    abandon: v.optional(abandon, 'finish'),
  },
  'a table',
)

/** `native_suffix` follows from the wire and is not a setting: an owner refuses suffixes with `suffix`. */
const settableLimits = features.filter((feature) => feature !== 'native_suffix')
const PATH = 'a path that starts with "/"'
const path = v.pipe(v.string(PATH), v.regex(/^\//, PATH))

const upstreamSchema = v.strictObject(
  {
    name,
    preset: v.optional(oneOf(Object.keys(presets))),
    base_url: v.optional(v.string('a URL')),
    wire: v.optional(oneOf(wires)),
    auth: v.optional(oneOf(authStyles)),
    path: v.optional(path),
    chat_path: v.optional(v.pipe(v.string(PATH), v.regex(/^(?:$|\/)/, `${PATH}, or ""`))),
    max_tokens_field: v.optional(oneOf(['max_tokens', 'max_completion_tokens'])),
    stream_usage: v.optional(flag),
    native_n: v.optional(flag),
    unsupported: v.optional(v.array(oneOf(settableLimits), 'a list of features')),
    key: v.optional(
      v.pipe(
        v.string('the name of a secret'),
        v.check(
          (key) => !looksSecret(key),
          'the NAME of a secret, not the key itself: run "npx wrangler secret put UPSTREAM_API_KEY", set key = "UPSTREAM_API_KEY", and replace a key that was committed or deployed here',
        ),
        v.regex(/^[A-Z][A-Z0-9_]{0,63}$/, 'the NAME of a secret, such as UPSTREAM_API_KEY'),
      ),
    ),
    stream: v.optional(oneOf(['always', 'visitor']), 'always'),
    first_byte_ms: v.optional(ms, 30_000),
    idle_ms: v.optional(ms, 20_000),
    deadline_ms: v.optional(ms, 120_000),
    retries: v.optional(integer(0, 5), 1),
    max_output_bytes: v.optional(integer(1024, 26_214_400), 1_048_576),
  },
  'a table',
)

/** Patterns of paths. Any other beginning matches no path. */
const paths = v.optional(
  listOf(v.pipe(text(1, 256), v.regex(/^[/*]/, 'a path that begins with "/" or "*"'))),
  ['/*'],
)

const variableName = v.pipe(
  v.string(),
  v.regex(/^[A-Za-z][A-Za-z0-9_]{0,63}$/, 'a name of letters, digits and "_"'),
)
const variableSchema = v.union(
  [
    v.strictObject({
      from: v.literal('url'),
      paths,
      selector: v.optional(text(1, 256), 'main, article, body'),
      max_chars: v.optional(integer(1, 200_000), 20_000),
      page_seconds: v.optional(seconds, 3600),
    }),
    v.strictObject({
      from: v.literal('site'),
      about: v.optional(variableName),
      count: v.optional(integer(1, 20), 6),
      max_chars: v.optional(integer(1, 200_000), 6000),
    }),
    v.strictObject({ values: listOf(text(0, 4096)) }),
    v.strictObject({ max_chars: integer(1, 200_000) }),
  ],
  '{ max_chars = … }, { values = […] }, { from = "url", … } or { from = "site", … }',
)

const settable = [
  'model',
  'max_tokens',
  'temperature',
  'top_p',
  'presence_penalty',
  'frequency_penalty',
  'n',
  'best_of',
  'stop',
  'seed',
  'logprobs',
  'logit_bias',
  'suffix',
  // Of chats only.
  'response_format',
] as const

export const promptSchema = v.strictObject(
  {
    system: v.optional(words),
    text: v.optional(words),
    chat: v.optional(flag, false),
    variables: v.optional(byName(variableName, variableSchema, 'a table of variables'), {}),
    model: v.optional(text(1, 128)),
    max_tokens: v.optional(positive),
    parameters: v.optional(parameters, {}),
    visitor_may_set: v.optional(v.array(oneOf(settable), 'a list of fields'), []),
    ttl_seconds: v.optional(seconds),
    spend: v.optional(oneOf(['visitor', 'operator']), 'visitor'),
    abandon: v.optional(abandon),
  },
  'a table',
)

/** A locked prompt in CONFIG or in src/config/prompts.ts. */
export type PromptSetting = v.InferInput<typeof promptSchema>

const defaultsSchema = v.strictObject({
  max_tokens: v.optional(positive),
  ...samplingFields,
  n: v.optional(positive),
  best_of: v.optional(positive),
  stop: v.optional(stopSchema),
  seed: v.optional(integer(Number.MIN_SAFE_INTEGER)),
  logprobs: v.optional(integer(0, 5)),
  echo: v.optional(flag),
  suffix: v.optional(text(0, 65_536)),
  stream: v.optional(flag),
})

const limitsSchema = v.strictObject({
  body_bytes: v.optional(integer(1, 10_485_760), 131_072),
  body_ms: v.optional(ms, 10_000),
  prompt_chars: v.optional(positive, 4000),
  max_tokens: v.optional(positive, 512),
  n: v.optional(integer(1, 16), 1),
  prompts: v.optional(integer(1, 64), 4),
  messages: v.optional(integer(1, 1024), 32),
  chat_chars: v.optional(positive, 16_000),
})

const cacheSchema = v.strictObject({
  ttl_seconds: v.optional(seconds, 2_592_000),
  stale_while_revalidate_seconds: v.optional(seconds, 604_800),
  stale_if_error_seconds: v.optional(seconds, 2_592_000),
  browser_seconds: v.optional(seconds, 300),
  free_prompts: v.optional(oneOf(['shared', 'visitor', 'off']), 'shared'),
  memory_seconds: v.optional(seconds, 60),
  memory_bytes: v.optional(integer(0, 67_108_864), 8_388_608),
  entry_bytes: v.optional(integer(1, 26_214_400), 262_144),
  kv_writes_per_day: v.optional(count, 0),
  kv_wait_ms: v.optional(ms, 300),
  flights: v.optional(oneOf(['global', 'none']), 'global'),
  version: v.optional(integer(1, 999_999), 1),
})

const budgetSchema = v.strictObject({
  tokens_per_day: v.optional(count, 200_000),
  usd_per_day: v.optional(finite(0, Number.POSITIVE_INFINITY), 0),
  tokens_per_visitor_per_day: v.optional(count, 20_000),
  streams_per_visitor: v.optional(positive, 4),
})

const siteSchema = v.strictObject({
  paths,
  selector: v.optional(text(1, 256), 'main, article, body'),
})

const accessSchema = v.strictObject({
  turnstile_sitekey: v.optional(v.string('a string'), ''),
  token_seconds: v.optional(integer(1, 86_400), 1800),
})

export const configSchema = v.strictObject(
  {
    origins: v.optional(v.array(v.string('a string'), 'a list of origins'), []),
    origin_required: v.optional(flag, false),
    anyone_may_spend: v.optional(flag, false),
    free_prompts: v.optional(flag),
    models: v.pipe(v.array(modelSchema, 'a list of models'), v.minLength(1, 'at least one model')),
    upstreams: v.pipe(
      v.array(upstreamSchema, 'a list of upstreams'),
      v.minLength(1, 'at least one upstream'),
    ),
    prompts: v.optional(byName(name, promptSchema, 'a table of prompts'), {}),
    defaults: v.optional(defaultsSchema, {}),
    limits: v.optional(limitsSchema, {}),
    cache: v.optional(cacheSchema, {}),
    budget: v.optional(budgetSchema, {}),
    access: v.optional(accessSchema, {}),
    site: v.optional(siteSchema, {}),
  },
  'a table [vars.CONFIG]',
)

export type Settings = v.InferOutput<typeof configSchema>
