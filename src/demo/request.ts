// Validates requests to the demo upstream: those of the completions wire, with limits of its own.
import * as v from 'valibot'
import { parseJson } from '../json.ts'
import { finite, integer } from '../validation.ts'

// These limit the CPU time of a request: the model writes about ten thousand tokens per second.
const maxTokens = 4096
const maxTokensInAll = 65_536

const filled = v.pipe(v.string(), v.minLength(1))
const whole = v.pipe(v.number(), v.integer())
const flag = v.nullish(v.boolean('true or false'), false)

// The messages are the expected values, which the error has after "expected".
const bodySchema = v.object({
  model: v.message(v.pipe(v.optional(v.string(), ''), v.minLength(1)), 'a model name'),
  prompt: v.message(
    v.nullish(v.union([v.string(), v.pipe(v.array(v.string()), v.minLength(1))]), ''),
    'a string or a list of strings',
  ),
  max_tokens: v.message(
    v.nullish(v.pipe(whole, v.minValue(0), v.maxValue(maxTokens)), 16),
    `a whole number up to ${maxTokens}`,
  ),
  temperature: v.nullish(finite(0, 2), 1),
  top_p: v.nullish(finite(0, 1), 1),
  stop: v.message(
    v.nullish(v.union([filled, v.pipe(v.array(filled), v.maxLength(4))]), []),
    'up to 4 strings, none of them empty',
  ),
  seed: v.message(v.nullish(whole), 'a whole number'),
  n: v.nullish(integer(1, 128), 1),
  best_of: v.nullish(integer(1, 20)),
  echo: flag,
  logprobs: v.nullish(integer(0, 5)),
  presence_penalty: v.nullish(finite(-2, 2), 0),
  frequency_penalty: v.nullish(finite(-2, 2), 0),
  stream: flag,
  stream_options: v.message(
    v.nullish(v.object({ include_usage: v.nullish(v.boolean(), false) }), {}),
    'an object with "include_usage"',
  ),
  suffix: v.message(v.nullish(v.literal('')), 'none, as this model only continues'),
  logit_bias: v.message(v.nullish(v.strictObject({})), 'none, as this model has no token ids'),
})
/** A request with its defaults filled in. */
export type Body = v.InferOutput<typeof bodySchema>

/** An error that the demo upstream answers with, over HTTP. */
export class Refusal extends Error {
  readonly status: number
  readonly param: string | null
  constructor(status: number, message: string, param: string | null = null) {
    super(message)
    this.status = status
    this.param = param
  }
}

/** @throws Refusal */
export async function readBody(request: Request): Promise<Body> {
  if (request.method !== 'POST') {
    throw new Refusal(405, `Cannot use ${request.method}: expected POST`)
  }
  const { pathname } = new URL(request.url)
  if (!pathname.endsWith('/completions')) {
    throw new Refusal(404, `Cannot find "${pathname}": expected a path that ends in /completions`)
  }
  // OpenAI's wording for such models, by which callers recognise that they need another wire.
  if (pathname.endsWith('/chat/completions')) {
    throw new Refusal(404, 'Cannot chat: the demo is not a chat model', 'model')
  }
  const input = parseJson(await request.text())
  if (input === undefined) throw new Refusal(400, 'Cannot read the body: expected JSON')
  const parsed = v.safeParse(bodySchema, input, { abortEarly: true })
  if (!parsed.success) {
    const [{ message, path }] = parsed.issues
    const field = path?.[0]
    if (field === undefined) throw new Refusal(400, 'Cannot read the body: expected an object')
    throw cannotUse(String(field.key), `${message}, got ${preview(field.value)}`)
  }
  const body = parsed.output
  const bestOf = body.best_of ?? body.n
  if (bestOf < body.n) throw cannotUse('best_of', `"n" or more, got ${bestOf}`)
  if (body.stream && bestOf > body.n) throw cannotUse('best_of', 'no more than "n" in a stream')
  // An answer without tokens costs something, too, so the default is the least that counts.
  const inAll = [body.prompt].flat().length * bestOf * Math.max(16, body.max_tokens)
  if (inAll > maxTokensInAll) {
    throw cannotUse('max_tokens', `at most ${maxTokensInAll} over all texts, got ${inAll}`)
  }
  return body
}

const cannotUse = (field: string, expected: string) =>
  new Refusal(400, `Cannot use "${field}": expected ${expected}`, field)

function preview(value: unknown): string {
  const text = JSON.stringify(value) ?? 'nothing'
  return text.length > 60 ? `${text.slice(0, 60)}...` : text
}
