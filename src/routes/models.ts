// What the owner offers: models and locked prompts, as lists. Never a prompt's text or a key.
import type { Variable, Variables } from '../completion/template.ts'
import { GatewayError } from '../errors.ts'
import { preview } from '../faults.ts'
import { jsonReply, type Reply } from '../http/reply.ts'

export interface Offer {
  readonly models: ReadonlyMap<string, { readonly route: readonly { readonly upstream: string }[] }>
  readonly prompts: ReadonlyMap<
    string,
    { readonly variables: Variables; readonly visitor_may_set: readonly string[] }
  >
}

/** `GET /v1/models`: OpenAI's list object. */
export function listModels({ models }: Offer): Reply {
  const data = [...models].map(([id, model]) => modelObject(id, model))
  return jsonReply({ object: 'list', data })
}

/** `GET /v1/models/{id}`. @throws GatewayError `model_not_found`. */
export function showModel({ models }: Offer, id: string): Reply {
  const model = models.get(id)
  if (model === undefined) {
    throw new GatewayError(
      'model_not_found',
      `Cannot find the model ${preview(id)}: GET /v1/models lists those that are allowed`,
      { param: 'model' },
    )
  }
  return jsonReply(modelObject(id, model))
}

/** `GET /v1/prompts`: ids, variables and their limits. */
export function listPrompts({ prompts }: Offer): Reply {
  const data = [...prompts].map(([id, { variables, visitor_may_set }]) => ({
    id,
    object: 'prompt',
    variables: Object.fromEntries(
      Object.entries(variables).map(([name, variable]) => [name, shown(variable)]),
    ),
    visitor_may_set,
  }))
  return jsonReply({ object: 'list', data })
}

/** What a visitor has to know; where a page's text stands in it is the owner's affair. */
function shown(variable: Variable) {
  if (!('from' in variable)) return variable
  const { from, paths, max_chars } = variable
  return { from, paths, max_chars }
}

function modelObject(
  id: string,
  { route }: { readonly route: readonly { readonly upstream: string }[] },
) {
  return { id, object: 'model', created: 0, owned_by: route[0]?.upstream ?? '' }
}
