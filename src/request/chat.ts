// The request of a chat: its schema, and its parser. It becomes the same kind of request as a
// completion's, whose prompt is a conversation.
import * as v from 'valibot'
import { GatewayError } from '../errors.ts'
import { isRecord, type Table } from '../json.ts'
import { type Fault, integer, preview, TEXT_ONLY, text } from '../validation.ts'
import type { Message } from './conversation.ts'
import {
  fieldParser,
  flag,
  type ParseRequest,
  type RequestLimits,
  requestSchema,
  variables,
} from './schema.ts'

export interface ChatLimits extends RequestLimits {
  /** Messages in a conversation. */
  readonly messages: number
  /** Characters (UTF-16 units) in all messages together. */
  readonly chat_chars: number
}

const NAME_CHARS = 64
export const nameSchema = text(1, NAME_CHARS)
/** How deep a JSON schema may be nested. */
const MAX_DEPTH = 64

const responseFormat = v.pipe(
  v.custom<Table>(isRecord, 'an object'),
  v.check(
    ({ type, json_schema }) =>
      type === 'text' ||
      type === 'json_object' ||
      (type === 'json_schema' && isRecord(json_schema)),
    '{"type":"text"}, {"type":"json_object"} or {"type":"json_schema","json_schema":{…}}',
  ),
  v.check(
    (format) => isPlain(format, MAX_DEPTH),
    `at most ${MAX_DEPTH} levels, well-formed Unicode and finite numbers`,
  ),
)

/** The schema of a request body, from which /openapi.json is also generated. */
export function chatSchema(limits: ChatLimits) {
  const {
    prompt: _,
    echo: _echo,
    suffix: _suffix,
    best_of: _best,
    ...shared
  } = requestSchema(limits).entries
  return v.object({
    // `messageFaults` validates them.
    messages: v.custom<readonly unknown[]>(Array.isArray, 'a list of messages'),
    ...shared,
    max_completion_tokens: v.optional(integer(1, limits.max_tokens)),
    logprobs: v.optional(flag),
    top_logprobs: v.optional(integer(0, 5)),
    response_format: v.optional(responseFormat),
    variables: v.optional(variables),
  })
}

/**
 * Creates the parser of chats for these limits. It throws a GatewayError as `requestParser` does.
 *
 * @param isPrompt whether a model's name is the id of a locked prompt for chats
 */
export function chatParser(limits: ChatLimits, isPrompt: (id: string) => boolean): ParseRequest {
  const parse = fieldParser(chatSchema(limits), {
    misplaced: [
      'prompt',
      'prompts go to POST /v1/completions, the id of a prompt for chats is sent as "model"',
    ],
    faultsOf: ({ messages, ...fields }) => [
      ...messageFaults(messages, limits),
      ...crossFieldFaults(fields),
    ],
  })
  return (body) => {
    const given = parse(body)
    const { messages: read, model, variables, ...fields } = given
    const { max_completion_tokens, max_tokens = max_completion_tokens, ...other } = fields
    const { logprobs, top_logprobs = 0, response_format: format, ...sampling } = other
    const limitName = fields.max_tokens === undefined ? 'max_completion_tokens' : 'max_tokens'
    const messages = read.map(messageOf)
    const isLocked = model !== undefined && isPrompt(model)
    if (variables !== undefined && !isLocked) {
      throw new GatewayError(
        'invalid_value',
        'Cannot use "variables": "model" is not the id of a prompt for chats',
        { param: 'variables' },
      )
    }
    return {
      ...sampling,
      ...(max_tokens === undefined ? {} : { max_tokens }),
      // `false` has an effect: it replaces the owner's default.
      ...(logprobs === undefined || (isLocked && !logprobs)
        ? {}
        : { logprobs: logprobs ? top_logprobs : undefined }),
      ...(format === undefined || format['type'] === 'text' ? {} : { response_format: format }),
      ...(model === undefined || isLocked ? {} : { model }),
      prompt: isLocked ? { id: model, variables: variables ?? {}, messages, limitName } : messages,
    }
  }
}

/** A message that `messageFaults` finds nothing wrong with. */
function messageOf(value: unknown): Message {
  const { role, content, name } = value as Table
  const named = name === undefined || name === null ? {} : { name: name as string }
  return { role: role as Message['role'], content: contentOf(content), ...named }
}

function contentOf(content: unknown): string {
  if (!Array.isArray(content)) return (content ?? '') as string
  return content.map(({ text }) => text).join('')
}

const roles: ReadonlySet<unknown> = new Set(['system', 'developer', 'user', 'assistant'])
/** What clients send back of an answer, at values without an effect. */
const neutral: ReadonlySet<string> = new Set(['tool_calls', 'annotations'])

function messageFaults(messages: readonly unknown[], limits: ChatLimits): Fault[] {
  if (messages.length === 0 || messages.length > limits.messages) {
    return [
      cannotUse('messages', `expected 1 to ${limits.messages} messages, got ${messages.length}`),
    ]
  }
  const faults = messages.flatMap((message, i) => faultsOfMessage(message, `messages[${i}]`))
  if (faults.length > 0) return faults
  const texts = messages.map(messageOf)
  const chars = texts.reduce((sum, { content, name = '' }) => sum + content.length + name.length, 0)
  if (chars > limits.chat_chars) {
    return [
      cannotUse(
        'messages',
        `expected at most ${limits.chat_chars} characters in all, got ${chars}`,
      ),
    ]
  }
  const last = texts.at(-1)
  if (last?.role === 'user') return []
  const path = `messages[${texts.length - 1}].role`
  return [cannotUse(path, `expected "user" in the last message, got ${preview(last?.role)}`)]
}

function faultsOfMessage(message: unknown, path: string): Fault[] {
  if (!isRecord(message)) {
    return [
      cannotUse(path, `expected an object with "role" and "content", got ${preview(message)}`),
    ]
  }
  const { role, content, name, ...others } = message
  const faults: Fault[] = []
  if (role === 'tool' || role === 'function') faults.push(cannotUse(`${path}.role`, TEXT_ONLY))
  else if (!roles.has(role)) {
    const expected = 'expected "system", "developer", "user" or "assistant"'
    faults.push(cannotUse(`${path}.role`, `${expected}, got ${preview(role)}`))
  }
  faults.push(...faultsOfContent(content, role, `${path}.content`))
  if (name !== undefined && name !== null && !v.is(nameSchema, name)) {
    const expected = `a string of 1 to ${NAME_CHARS} characters`
    faults.push(cannotUse(`${path}.name`, `expected ${expected}, got ${preview(name)}`))
  }
  for (const [field, value] of Object.entries(others)) {
    const isEmptyList = Array.isArray(value) && value.length === 0
    if (value === null || (neutral.has(field) && isEmptyList)) continue
    // OpenAI's SDK adds the content as an object to an answer with a JSON schema.
    if (field === 'parsed' && role === 'assistant') continue
    const state = /tool|function|audio/.test(field) ? TEXT_ONLY : 'it is not a field of a message'
    faults.push(cannotUse(`${path}.${field}`, state))
  }
  return faults
}

function faultsOfContent(content: unknown, role: unknown, path: string): Fault[] {
  const parts = Array.isArray(content) ? content : []
  const faults = parts.flatMap((part, i) => {
    const at = `${path}[${i}]`
    if (!isRecord(part) || part['type'] !== 'text') return [cannotUse(at, TEXT_ONLY)]
    const { type: _, text, ...others } = part
    const unknown = Object.keys(others).filter((key) => others[key] !== null)
    return [
      ...faultsOfText(text, `${at}.text`),
      ...unknown.map((key) => cannotUse(`${at}.${key}`, 'it is not a field of a text')),
    ]
  })
  if (faults.length > 0) return faults
  const isEmpty = content === undefined || content === null || contentOf(content) === ''
  if (isEmpty && role === 'assistant') return []
  if (content === undefined || content === null) {
    return [{ path, message: `Cannot find "${path}": it is required` }]
  }
  if (isEmpty) return [cannotUse(path, 'expected text that is not empty')]
  return Array.isArray(content) ? [] : faultsOfText(content, path)
}

function faultsOfText(value: unknown, path: string): Fault[] {
  if (typeof value !== 'string') return [cannotUse(path, `expected text, got ${preview(value)}`)]
  return value.isWellFormed() ? [] : [cannotUse(path, 'expected well-formed Unicode')]
}

interface ChatFields {
  readonly max_tokens?: number | undefined
  readonly max_completion_tokens?: number | undefined
  readonly logprobs?: boolean | undefined
  readonly top_logprobs?: number | undefined
}

function crossFieldFaults(fields: ChatFields): Fault[] {
  const { max_tokens: limit, max_completion_tokens: other, logprobs, top_logprobs } = fields
  const faults: Fault[] = []
  if (limit !== undefined && other !== undefined && limit !== other) {
    const state = `expected the same as "max_tokens", which is ${limit}, got ${other}`
    faults.push(cannotUse('max_completion_tokens', state))
  }
  if (top_logprobs !== undefined && logprobs !== true) {
    faults.push(cannotUse('top_logprobs', 'it requires "logprobs": true'))
  }
  return faults
}

function cannotUse(path: string, state: string): Fault {
  return { path, message: `Cannot use ${preview(path)}: ${state}` }
}

/** Whether JSON can write it, names included. Checks level by level: recursion could exceed the stack. */
function isPlain(value: unknown, depth: number): boolean {
  let level = [value]
  for (let left = depth; left > 0 && level.length > 0; left--) {
    if (level.some((each) => typeof each === 'string' && !each.isWellFormed())) return false
    if (level.some((each) => typeof each === 'number' && !Number.isFinite(each))) return false
    level = level.flatMap((each) =>
      typeof each === 'object' && each !== null ? Object.entries(each).flat() : [],
    )
  }
  return level.length === 0
}
