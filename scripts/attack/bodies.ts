// The bodies of requests that may spend: free prompts and conversations, and locked ones if the owner
// allows no others.
import { isRecord, type Table } from '../../src/json.ts'
import { pick } from '../../test/support/random.ts'
import { type Aim, post, type Shot } from './shot.ts'
import type { ListedPrompt } from './target.ts'

const WORDS = ['sea', 'tide', 'gull', 'harbour', 'rope', 'salt', 'dune', 'lamp'] as const

/** A text that no other request of the run has. */
export function newText({ random, serial, seed }: Aim): string {
  const words = Array.from({ length: 4 }, () => pick(WORDS, random))
  return `Attack ${seed}, text ${serial()}: ${words.join(' ')}`
}

/** `text`, repeated to this length. */
export const stretched = (text: string, chars: number): string =>
  text.repeat(Math.ceil(chars / text.length)).slice(0, chars)

/** A request that spends unless it is refused, with one of the three paths' bodies. */
export function spending(aim: Aim, fields: Table = {}, more: Partial<Shot> = {}): Shot {
  const { n: _, ...noChoices } = fields
  const builders = [
    () => completion(aim, newText(aim), fields, more),
    () => completion(aim, newText(aim), { ...fields, stream: true, ...WITH_USAGE }, more),
    () => chat(aim, [newText(aim)], fields, more),
    () => aiSdk(aim, noChoices, more),
  ] as const
  return pick(builders, aim.random)()
}

export const WITH_USAGE = { stream_options: { include_usage: true } }
const OVERHEAD_TOKENS = 64

export function completion(aim: Aim, text: string, fields: Table, more: Partial<Shot> = {}): Shot {
  const { stream, stream_options, ...rest } = fields
  const streaming = { ...(stream === undefined ? {} : { stream, stream_options }) }
  const { prompts, freePrompts } = aim.target
  const [locked] = prompts.filter(takesText)
  const body =
    freePrompts || locked === undefined
      ? { prompt: text, ...rest, ...streaming }
      : { prompt: filled(aim, locked, text), ...streaming }
  return paid(aim, '/v1/completions', body, more)
}

/** @param texts by turns of the visitor and the model; an odd number */
export function chat(
  aim: Aim,
  texts: readonly string[],
  fields: Table,
  more: Partial<Shot> = {},
): Shot {
  const messages = texts.map((content, i) => ({
    role: i % 2 === 0 ? 'user' : 'assistant',
    content,
  }))
  const [model] = aim.target.chats
  const { stream, stream_options } = fields
  const body =
    aim.target.freePrompts || model === undefined
      ? { messages, ...fields }
      : { messages, model, ...(stream === undefined ? {} : { stream, stream_options }) }
  return paid(aim, '/v1/chat/completions', body, more)
}

function aiSdk(aim: Aim, { stream: _, stream_options: __, ...fields }: Table, more: Partial<Shot>) {
  const [model] = aim.target.chats
  const isLocked = !aim.target.freePrompts && model !== undefined
  const messages = [{ id: 'm1', role: 'user', parts: [{ type: 'text', text: newText(aim) }] }]
  const body = { messages, ...(isLocked ? { model } : fields) }
  return paid(aim, '/v1/ai-sdk', body, more)
}

/** A POST with an estimate of what one call for it could cost at most. */
function paid(aim: Aim, path: string, body: Table, more: Partial<Shot>): Shot {
  const { limits } = aim.target
  const count = (value: unknown, absent: number) => (typeof value === 'number' ? value : absent)
  const written = count(body['max_tokens'], limits.max_tokens) * count(body['n'], 1)
  const text = JSON.stringify(body)
  return post(aim, path, text, {
    tokens: Buffer.byteLength(text) + OVERHEAD_TOKENS + written,
    ...more,
  })
}

/** Whether a variable of the prompt is free text, so that every text is another answer. */
function takesText({ variables }: ListedPrompt): boolean {
  const all = Object.values(variables)
  return all.some(({ from, max_chars }) => from === undefined && typeof max_chars === 'number')
}

/**
 * A locked prompt with its variables.
 *
 * @param page the address for variables that are pages
 */
export function filled(
  aim: Aim,
  { id, variables }: ListedPrompt,
  text: string,
  page = new URL('/', aim.target.origin).href,
): Table {
  const values = Object.entries(variables).flatMap(([name, variable]) => {
    const { from, values: allowed, max_chars: most } = isRecord(variable) ? variable : {}
    if (from === 'site') return []
    if (from === 'url') return [[name, page]]
    if (Array.isArray(allowed)) return [[name, allowed[0]]]
    return [[name, stretched(text, typeof most === 'number' ? most : text.length)]]
  })
  return { id, variables: Object.fromEntries(values) }
}
