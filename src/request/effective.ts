// Merges the visitor's request with the owner's settings into the effective request. Fields at
// their standard default are left out, so that they are neither part of the cache key nor sent
// upstream.
import { GatewayError, invalidValue } from '../errors.ts'
import { preview } from '../validation.ts'
import {
  type ChatOptions,
  type Conversation,
  isConversation,
  isTokens,
  type Prompt,
  sentChat,
} from './conversation.ts'
import { markedText, type PageText, withPageInstruction } from './page-text.ts'
import {
  type FreePrompt,
  isLocked,
  type LockedPrompt,
  type RequestField,
  type VisitorRequest,
} from './schema.ts'
import { parseVariables, passagesIn, render, type Variables, variablesPath } from './template.ts'

/** One upstream of a route, with what the answer depends on. */
export interface Target {
  readonly upstream: string
  readonly upstream_model: string
}

export interface ModelOptions {
  readonly id: string
  /** For prompts; `chat.system` is for chats. */
  readonly system: string | null
  readonly chat: ChatOptions
  /** The owner's own upstream parameters. */
  readonly parameters: Readonly<Record<string, unknown>>
  /** At least one target, in the order of attempts. */
  readonly route: readonly Target[]
}

interface PromptOptions {
  /** Whether it takes a conversation. */
  readonly chat: boolean
  readonly system?: string | undefined
  /** Of a chat: rendered around the last message, if there is a text. */
  readonly text?: string | undefined
  readonly variables: Variables
  readonly model?: string | undefined
  readonly max_tokens?: number | undefined
  readonly parameters: Readonly<Record<string, unknown>>
  readonly visitor_may_set: readonly string[]
}

/** The fields for which an owner may define a default. */
type RequestDefaults = Partial<
  Omit<
    VisitorRequest,
    'prompt' | 'logit_bias' | 'stream_options' | 'user' | 'model' | 'response_format'
  >
>

export interface EffectiveOptions {
  /** The first is the default. */
  readonly models: ReadonlyMap<string, ModelOptions>
  readonly prompts: ReadonlyMap<string, PromptOptions>
  readonly freePrompts: boolean
  readonly defaults: RequestDefaults & { readonly max_tokens: number }
  readonly variableChars: number
}

/** The sampling parameters. An absent one has its standard default. */
export interface Sampling
  extends Readonly<
    Pick<VisitorRequest, (typeof scalarFields)[number] | 'logit_bias' | 'response_format'>
  > {
  readonly max_tokens: number
  readonly n: number
  readonly stop?: readonly string[]
}

/** The request to an upstream: everything that the answer depends on. */
export interface EffectiveRequest extends Sampling {
  /** The model id that the owner defined. */
  readonly model: string
  readonly prompt_id: string | null
  readonly prompts: readonly Prompt[]
  readonly system: string | null
  readonly route: readonly Target[]
  readonly parameters: Readonly<Record<string, unknown>>
}

/** The texts of a request's pages and passages, by the names of their variables. */
export type PageTexts = ReadonlyMap<string, PageText>

/** OpenAI's defaults: sending one of these values has no effect. */
const standard: Readonly<Partial<Record<RequestField, unknown>>> = {
  temperature: 1,
  top_p: 1,
  presence_penalty: 0,
  frequency_penalty: 0,
  n: 1,
  best_of: 1,
  echo: false,
  suffix: '',
}

/** Rewrites what a visitor asks about (search/question.ts), for the key. */
export type Normalise = (question: string) => string

/** A checked and merged request, whose prompt is still to be rendered. */
export interface RequestDraft {
  readonly fields: Omit<EffectiveRequest, 'prompts' | 'system'>
  /**
   * @param pages the texts of all variables that are pages or passages
   * @param normalise applied to the question that the passages are about: the variable or, in a chat,
   *   the visitor's last two messages
   */
  readonly render: (pages?: PageTexts, normalise?: Normalise) => EffectiveRequest
}

/**
 * @throws GatewayError `free_prompts_disabled`, `prompt_not_found`, `locked_by_owner`,
 *   `model_not_allowed`, and those of `parseVariables`.
 */
export function draftRequest(request: VisitorRequest, options: EffectiveOptions): RequestDraft {
  return isLocked(request.prompt)
    ? lockedRequest(request, request.prompt, options)
    : freeRequest(request, request.prompt, options)
}

/** The effective fields by which a request for a locked prompt differs from the owner's settings. */
export function overriddenFields(
  request: VisitorRequest,
  effective: RequestDraft['fields'],
  options: EffectiveOptions,
): Readonly<Record<string, unknown>> {
  const fields = Object.keys(request).filter((field) => !alwaysFree.has(field))
  if (fields.length === 0) return {}
  const owners = draftRequest({ prompt: request.prompt, stream: false }, options).fields
  const chosen: Record<string, unknown> = {}
  for (const field of fields as (keyof typeof owners)[]) {
    const values = [effective, owners].map((of) =>
      JSON.stringify([of[field], of.parameters[field]]),
    )
    if (values[0] !== values[1]) chosen[field] = effective[field] ?? null
  }
  return chosen
}

function freeRequest(
  request: VisitorRequest,
  prompt: FreePrompt,
  options: EffectiveOptions,
): RequestDraft {
  const isChat = isConversation(prompt)
  if (!options.freePrompts) {
    const field = isChat ? 'messages' : 'prompt'
    throw new GatewayError(
      'free_prompts_disabled',
      `Cannot use "${field}": this endpoint accepts only the prompts listed at GET /v1/prompts`,
      { param: field },
    )
  }
  const model = findModel(request.model, options)
  const { id, route, parameters } = model
  const own = fieldsOf(request, isChat ? chatDefaults(options.defaults) : options.defaults)
  const fields = { model: id, prompt_id: null, route, parameters, ...own }
  if (isChat) {
    if (model.chat.system !== null) refuseSystemMessages(prompt)
    const { system, prompt: sent } = sentChat(prompt, model.chat.system, model.chat)
    return { fields, render: () => ({ ...fields, prompts: [sent], system }) }
  }
  const prompts = typeof prompt === 'string' || isTokens(prompt) ? [prompt] : prompt
  return { fields, render: () => ({ ...fields, prompts, system: model.system }) }
}

/** The defaults of fields that chats have. */
function chatDefaults(defaults: EffectiveOptions['defaults']): EffectiveOptions['defaults'] {
  const { echo: _echo, suffix: _suffix, best_of: _best, ...others } = defaults
  return others
}

/** @throws GatewayError `locked_by_owner` */
function refuseSystemMessages(messages: Conversation): void {
  const i = messages.findIndex(({ role }) => role === 'system' || role === 'developer')
  if (i < 0) return
  const param = `messages[${i}].role`
  const state = 'the owner has set the system message of this model'
  throw new GatewayError('locked_by_owner', `Cannot use "${param}": ${state}`, { param })
}

function lockedRequest(
  request: VisitorRequest,
  { id, variables = {}, messages, limitName = 'max_tokens' }: LockedPrompt,
  options: EffectiveOptions,
): RequestDraft {
  const prompt = options.prompts.get(id)
  if (prompt === undefined) {
    throw new GatewayError(
      'prompt_not_found',
      `Cannot find the prompt ${preview(id)}: GET /v1/prompts lists the available prompts`,
      { param: 'prompt.id' },
    )
  }
  if (prompt.chat && messages === undefined) {
    const state = 'it takes a conversation: send its id as "model" to POST /v1/chat/completions'
    throw invalidValue('prompt.id', state)
  }
  if (messages !== undefined) refuseSystemMessages(messages)
  refuseLockedFields(request, prompt.visitor_may_set, limitName)
  const parameters = Object.entries(prompt.parameters).filter(
    ([name]) => !Object.hasOwn(request, name),
  )
  const model = findModel(request.model ?? prompt.model, options)
  const values = parseVariables(
    variables,
    prompt.variables,
    options.variableChars,
    variablesPath({ messages }),
  )
  // Ignore an `echo` default: it would show the owner's prompt text to visitors.
  const { echo: _echo, ...withoutEcho } = options.defaults
  const defaults = prompt.chat ? chatDefaults(options.defaults) : withoutEcho
  const max_tokens = prompt.max_tokens ?? defaults.max_tokens
  const fields = {
    model: model.id,
    prompt_id: id,
    route: model.route,
    parameters: { ...model.parameters, ...Object.fromEntries(parameters) },
    ...fieldsOf(request, { ...defaults, max_tokens }),
  }
  const passages = passagesIn(prompt.variables)?.[1]
  return {
    fields,
    render: (pages = new Map(), normalise = asWritten) => {
      const texts = new Map([...pages].map(([name, page]) => [name, markedText(page)]))
      const filled = new Map([...values, ...texts])
      const about = passages?.about ?? ''
      const question = values.get(about)
      if (question !== undefined) filled.set(about, normalise(question))
      const modelSystem = prompt.chat ? model.chat.system : model.system
      const own = prompt.system === undefined ? modelSystem : render(prompt.system, filled)
      const system = withPageInstruction(own, pages.values())
      const { text = '' } = prompt
      if (messages === undefined) return { ...fields, prompts: [render(text, filled)], system }
      const turns = passages === undefined ? messages : withNormalisedQuestion(messages, normalise)
      const sent = sentChat(withLast(turns, text, filled), system, model.chat)
      return { ...fields, prompts: [sent.prompt], system: sent.system }
    },
  }
}

const asWritten: Normalise = (question) => question

/** The messages that passages are about: a follow-up such as "And on Windows?" needs the one before. */
export const questionMessages = (messages: Conversation): Conversation =>
  messages.filter(({ role }) => role === 'user').slice(-2)

/** The conversation with the messages rewritten that passages are about. */
export function withNormalisedQuestion(messages: Conversation, normalise: Normalise): Conversation {
  const asking = questionMessages(messages)
  return messages.map((message) =>
    asking.includes(message) ? { ...message, content: normalise(message.content) } : message,
  )
}

/** The conversation with the owner's text around the last message. */
function withLast(
  messages: Conversation,
  text: string,
  values: ReadonlyMap<string, string>,
): Conversation {
  const last = messages.at(-1)
  if (text === '' || last === undefined) return messages
  const content = render(text, new Map([...values, ['message', last.content]]))
  return [...messages.slice(0, -1), { ...last, content }]
}

const alwaysFree: ReadonlySet<string> = new Set(['prompt', 'stream', 'stream_options', 'user'])

function refuseLockedFields(
  request: VisitorRequest,
  allowed: readonly string[],
  limitName: string,
): void {
  for (const field of Object.keys(request)) {
    if (!alwaysFree.has(field) && !allowed.includes(field)) {
      const param = field === 'max_tokens' ? limitName : field
      throw new GatewayError(
        'locked_by_owner',
        `Cannot set "${param}": the owner has locked it for this prompt`,
        { param },
      )
    }
  }
}

function findModel(
  id: string | undefined,
  { models, prompts }: Pick<EffectiveOptions, 'models' | 'prompts'>,
): ModelOptions {
  const model = id === undefined ? models.values().next().value : models.get(id)
  if (model !== undefined) return model
  const prompt = id === undefined ? undefined : prompts.get(id)
  const state =
    prompt === undefined
      ? 'GET /v1/models lists the allowed models'
      : `it is a prompt for POST ${prompt.chat ? '/v1/chat/completions' : '/v1/completions'}`
  throw new GatewayError('model_not_allowed', `Cannot use the model ${preview(id)}: ${state}`, {
    param: 'model',
  })
}

/** The fields with an effect, in the form that the cache key is made of. */
function fieldsOf(request: VisitorRequest, defaults: EffectiveOptions['defaults']): Sampling {
  const { logit_bias, response_format } = request
  const { stop, max_tokens = defaults.max_tokens, n = 1 } = { ...defaults, ...request }
  // Raise the owner's default to n if necessary; a visitor's own best_of below n is an error.
  const best_of =
    request.best_of ??
    (n > 1 && defaults.best_of ? Math.max(defaults.best_of, n) : defaults.best_of)
  refuseBestOf(best_of, n, request.stream ?? defaults.stream ?? false)
  const stops = typeof stop === 'string' ? [stop] : stop
  return {
    max_tokens,
    n,
    ...scalarsOf({ ...defaults, ...request, best_of }),
    ...(stops === undefined || stops.length === 0 ? {} : { stop: stops }),
    ...(logit_bias === undefined || Object.keys(logit_bias).length === 0 ? {} : { logit_bias }),
    ...(response_format === undefined ? {} : { response_format }),
  }
}

/** Checks `best_of` against the owner's defaults for the other fields. */
function refuseBestOf(best_of = 1, n: number, stream: boolean): void {
  if (best_of <= 1) return
  if (stream && best_of > n) {
    throw invalidValue('best_of', 'it cannot be combined with streaming, which is the default here')
  }
  if (best_of < n) {
    throw invalidValue('best_of', `expected at least n, which is ${n} here, got ${best_of}`)
  }
}

/** The fields that are passed on as they are. */
const scalarFields = [
  'best_of',
  'temperature',
  'top_p',
  'presence_penalty',
  'frequency_penalty',
  'seed',
  'logprobs',
  'echo',
  'suffix',
] as const

function scalarsOf(request: RequestDefaults): Partial<Sampling> {
  const picked: Record<string, unknown> = {}
  for (const field of scalarFields) {
    const value = request[field]
    // JSON writes -0 as 0 in the cache key and upstream, so use 0 here too.
    if (value !== undefined && value !== standard[field]) picked[field] = value === 0 ? 0 : value
  }
  return picked
}
