// What anyone can learn about a Worker before attacking it: its limits, models and locked prompts.
import { isLoopback } from '../../src/http/cors.ts'
import { isRecord, parseJson, type Table } from '../../src/json.ts'
import type { Gateway } from '../operator/gateway.ts'

/** A locked prompt, as `GET /v1/prompts` lists it. */
export interface ListedPrompt {
  readonly id: string
  readonly variables: Readonly<Record<string, Table>>
}

export interface Target {
  readonly url: URL
  /** The page that the requests claim to come from. The Worker's own origin is always allowed. */
  readonly origin: string
  /** On this machine, nothing in front of the Worker sets `CF-Connecting-IP`, so requests can. */
  readonly isLocal: boolean
  readonly limits: {
    readonly max_tokens: number
    readonly n: number
    readonly prompt_chars: number
    readonly messages: number
    readonly chat_chars: number
  }
  readonly freePrompts: boolean
  readonly turnstile: boolean
  /** The ids of models that take free prompts. */
  readonly models: readonly string[]
  /** The ids of locked prompts that take conversations. */
  readonly chats: readonly string[]
  readonly prompts: readonly ListedPrompt[]
  /** A token to replay, or null. */
  readonly visitorToken: string | null
}

/** Reads the public lists of the Worker. @throws Error for the user */
export async function targetOf(
  url: URL,
  gateway: Gateway,
  visitorToken: string | null,
): Promise<Target> {
  const read = async (path: string) => parseJson((await gateway.reach(path)).text)
  const [document, models, prompts] = await Promise.all([
    read('/openapi.json'),
    read('/v1/models'),
    read('/v1/prompts'),
  ])
  const info = at(document, 'info')
  const listed = itemsOf(at(models, 'data'))
  const isChat = (model: Table) => model['owned_by'] === 'owner'
  return {
    url,
    origin: originIn(visitorToken) ?? url.origin,
    isLocal: isLoopback(url.hostname),
    limits: limitsIn(document),
    freePrompts: at(info, 'x-free-prompts') === true,
    turnstile: at(info, 'x-turnstile-sitekey') !== undefined,
    models: listed.filter((model) => !isChat(model)).map(({ id }) => String(id)),
    chats: listed.filter(isChat).map(({ id }) => String(id)),
    prompts: itemsOf(at(prompts, 'data')).map(({ id, variables }) => ({
      id: String(id),
      variables: (isRecord(variables) ? variables : {}) as ListedPrompt['variables'],
    })),
    visitorToken,
  }
}

/** The limits of CONFIG, as the schemas of `/openapi.json` state them. */
function limitsIn(document: unknown): Target['limits'] {
  const schemas = at(document, 'components', 'schemas')
  const completion = at(schemas, 'CompletionRequest', 'properties')
  const message = at(schemas, 'Message', 'anyOf', '0', 'properties', 'content', 'anyOf', '0')
  const number = (value: unknown, absent: number) => (typeof value === 'number' ? value : absent)
  return {
    max_tokens: number(at(completion, 'max_tokens', 'maximum'), 512),
    n: number(at(completion, 'n', 'maximum'), 1),
    // A suffix may be as long as a prompt.
    prompt_chars: number(at(completion, 'suffix', 'maxLength'), 4000),
    messages: number(at(schemas, 'ChatRequest', 'properties', 'messages', 'maxItems'), 32),
    chat_chars: number(at(message, 'maxLength'), 16_000),
  }
}

/** The member at a path of names or indices; undefined if there is no such member. */
function at(value: unknown, ...path: readonly string[]): unknown {
  return path.reduce<unknown>(
    (inner, name) =>
      typeof inner === 'object' && inner !== null ? (inner as Table)[name] : undefined,
    value,
  )
}

const itemsOf = (value: unknown): Table[] => (Array.isArray(value) ? value.filter(isRecord) : [])

/** The origin that a visitor token is bound to, from its claims; null without a token. */
function originIn(token: string | null): string | null {
  const claims = parseJson(Buffer.from(token?.split('.')[1] ?? '', 'base64url').toString())
  const origin = at(claims, 'origin')
  return typeof origin === 'string' && origin !== '' ? origin : null
}
