// Lists of the models and locked prompts, without prompt texts, upstreams' addresses or keys.

import { GatewayError } from '../errors.ts'
import { jsonReply, type Reply } from '../http/reply.ts'
import { mapped } from '../json.ts'
import type { Variable, Variables } from '../request/template.ts'
import { preview } from '../validation.ts'

interface Model {
  readonly route: readonly { readonly upstream: string }[]
}

export interface Catalog {
  readonly models: ReadonlyMap<string, Model>
  readonly prompts: ReadonlyMap<
    string,
    {
      readonly variables: Variables
      readonly visitor_may_set: readonly string[]
      /** It takes a conversation, and is named as a model. */
      readonly chat: boolean
    }
  >
}

/** `GET /v1/models`: OpenAI's list object. Locked prompts for chats are models, too. */
export function listModels({ models, prompts }: Catalog): Reply {
  const chats = [...prompts].filter(([, { chat }]) => chat)
  const data = [
    ...[...models].map(([id, { route }]) => modelObject(id, route[0]?.upstream)),
    ...chats.map(([id]) => modelObject(id, OWNER)),
  ]
  return jsonReply({ object: 'list', data })
}

/** `GET /v1/models/{id}`. @throws GatewayError `model_not_found`. */
export function showModel({ models, prompts }: Catalog, id: string): Reply {
  const model = models.get(id)
  if (model !== undefined) return jsonReply(modelObject(id, model.route[0]?.upstream))
  if (prompts.get(id)?.chat) return jsonReply(modelObject(id, OWNER))
  const message = `Cannot find the model ${preview(id)}: GET /v1/models lists the allowed models`
  throw new GatewayError('model_not_found', message, { param: 'model' })
}

/** `GET /v1/prompts`: ids, variables and their limits. */
export function listPrompts({ prompts }: Catalog): Reply {
  const data = [...prompts].map(([id, { variables, visitor_may_set }]) => ({
    id,
    object: 'prompt',
    variables: mapped(Object.entries(variables), publicVariable),
    visitor_may_set,
  }))
  return jsonReply({ object: 'list', data })
}

/** The public settings of a variable. The CSS selector of a page is private. */
function publicVariable(variable: Variable) {
  if (!('from' in variable) || variable.from === 'site') return variable
  const { from, paths, max_chars } = variable
  return { from, paths, max_chars }
}

/** Who makes the answers of a locked prompt, rather than an upstream. */
const OWNER = 'owner'

function modelObject(id: string, owner = '') {
  return { id, object: 'model', created: 0, owned_by: owner }
}
