// The same answers as OpenAI's chat completions, whole and in chunks
// (platform.openai.com/docs/api-reference/chat).
import { toJson } from '../json.ts'
import { ChunkWriter } from './chunks.ts'
import type { Completion, Logprobs } from './completion.ts'
import type { Delta } from './delta.ts'
import type { Encode } from './encode.ts'

/** The id of a chat completion: `chatcmpl-` and the letters of the stored completion's id. */
const chatId = (id: string) => `chat${id}`

/** A completion as a `chat.completion` object. */
export function chatCompletion(completion: Completion) {
  return {
    ...completion,
    id: chatId(completion.id),
    object: 'chat.completion',
    choices: completion.choices.map(({ index, text, logprobs, finish_reason }) => ({
      index,
      message: { role: 'assistant', content: text, refusal: null },
      logprobs: chatLogprobs(logprobs),
      finish_reason,
    })),
  }
}

/** Each choice begins with a chunk that has the role, and ends with one that has an empty delta. */
export function chatChunkEncoder(includeUsage: boolean): Encode {
  const writer = new ChunkWriter('chat.completion.chunk', includeUsage)
  /** The delta that each choice begins with: readers who join later encode it again. */
  const first = new Map<number, Delta>()
  const chunk = (index: number, delta: string, logprobs: Logprobs | null, finish: string) =>
    writer.choice(
      `{"index":${index},"delta":${delta},"logprobs":${toJson(chatLogprobs(logprobs))},"finish_reason":${finish}}`,
    )
  const begin = (delta: Extract<Delta, { index: number }>) => {
    const { index } = delta
    if (!first.has(index)) first.set(index, delta)
    const isFirst = first.get(index) === delta
    return isFirst ? chunk(index, '{"role":"assistant","content":""}', null, 'null') : ''
  }
  return (delta) => {
    switch (delta.kind) {
      case 'head':
        return writer.head({ ...delta.head, id: chatId(delta.head.id) })
      case 'text': {
        const { index, text, logprobs } = delta
        return begin(delta) + chunk(index, `{"content":${toJson(text)}}`, logprobs, 'null')
      }
      case 'finish':
        return begin(delta) + chunk(delta.index, '{}', null, `"${delta.reason}"`)
      case 'usage':
        return writer.usage(delta.usage)
      default:
        return delta satisfies never
    }
  }
}

/** OpenAI's value for a token without a known probability. */
const UNKNOWN_LOGPROB = -9999

/** The log probabilities in the form of chats: one object for each token. */
function chatLogprobs(logprobs: Logprobs | null) {
  if (logprobs === null) return null
  const { tokens, token_logprobs, top_logprobs } = logprobs
  const content = tokens.map((token, i) => ({
    ...tokenLogprob(token, token_logprobs[i] ?? UNKNOWN_LOGPROB),
    top_logprobs: Object.entries(top_logprobs?.[i] ?? {})
      .sort(([, a], [, b]) => b - a)
      .map(([other, logprob]) => tokenLogprob(other, logprob)),
  }))
  return { content, refusal: null }
}

/** A byte of a character that is split between tokens, as OpenAI spells it; after `bytes:` in legacy. */
const BYTE = /(\\x[89a-f][0-9a-f])/i

function tokenLogprob(spelled: string, logprob: number) {
  const token = BYTE.test(spelled) ? spelled.replace(/^bytes:/, '') : spelled
  const bytes = token
    .split(BYTE)
    .flatMap((part) =>
      BYTE.test(part) ? Number.parseInt(part.slice(2), 16) : [...new TextEncoder().encode(part)],
    )
  return { token, logprob, bytes }
}
