// The operator's doors: all of them need OPERATOR_TOKEN, none of them may be cached.
import * as v from 'valibot'
import type { Operator } from '../access/operator.ts'
import type { Purges, PurgeTarget } from '../cache/purge.ts'
import { GatewayError } from '../errors.ts'
import { type BodyOptions, readJson } from '../http/body.ts'
import type { Visit } from './visit.ts'

export interface AdminContext {
  readonly operator: Operator
  readonly purges: Purges
  /** The cache key of a request as visitors send it. @throws GatewayError if it is none */
  readonly keyOf: (body: unknown) => Promise<string>
}

const purgeSchema = v.union([
  v.strictObject({ all: v.literal(true) }),
  v.strictObject({ request: v.record(v.string(), v.unknown()) }),
  v.strictObject({ prompt_id: v.pipe(v.string(), v.minLength(1), v.maxLength(64)) }),
  v.strictObject({ model: v.pipe(v.string(), v.minLength(1), v.maxLength(128)) }),
])

export class Admin {
  readonly #body: BodyOptions
  readonly #context: AdminContext

  constructor(body: BodyOptions, context: AdminContext) {
    this.#body = body
    this.#context = context
  }

  /** `POST /admin/purge`. @throws GatewayError */
  async purge(visit: Visit): Promise<Response> {
    await this.#authorize(visit)
    const result = v.safeParse(purgeSchema, await readJson(visit.request, this.#body))
    if (!result.success) {
      throw new GatewayError(
        'invalid_value',
        'Cannot purge this: expected {"all":true}, {"request":{…}}, {"prompt_id":"…"} or {"model":"…"}',
      )
    }
    const [word, target] = await this.#target(result.output)
    await this.#context.purges.purge(target)
    return Response.json({ purged: word })
  }

  async #target(given: v.InferOutput<typeof purgeSchema>): Promise<[string, PurgeTarget]> {
    if ('all' in given) return ['all', { kind: 'all' }]
    if ('prompt_id' in given) return ['prompt', { kind: 'prompt', name: given.prompt_id }]
    if ('model' in given) return ['model', { kind: 'model', name: given.model }]
    return ['request', { kind: 'key', name: await this.#context.keyOf(given.request) }]
  }

  async #authorize({ request }: Visit): Promise<void> {
    if (await this.#context.operator.isOperator(request.headers)) return
    throw new GatewayError(
      'operator_token_invalid',
      'Cannot do this without the operator\'s token: send it as "Authorization: Bearer …"',
    )
  }
}
