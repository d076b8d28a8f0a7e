// The shapes of an answer: as JSON, as an event stream or as bare text, with the objects of one of the
// APIs, from the start or from the point where an earlier stream was interrupted. Event streams have the
// form that all known clients accept: one `data:` line per event, LF only, `[DONE]` last.

import { toJson } from '../json.ts'
import { chatChunkEncoder, chatCompletion } from './chat-completion.ts'
import { type Delta, type FoldedAnswer, replay } from './delta.ts'
import { type ResumePoint, resumeFilter } from './resume.ts'
import { chunkEncoder } from './text-completion.ts'
import { uiMessageEncoder } from './ui-message.ts'

/** The API that a visitor uses: completions, chat completions, or the AI SDK's UI messages. */
export type Api = 'completion' | 'chat' | 'ai-sdk'

/** The format of an answer. */
export interface Shape {
  readonly api: Api
  /** UI messages are always an event stream. */
  readonly as: 'json' | 'sse' | 'text'
  /** False: the body is sent when the answer is complete. */
  readonly stream: boolean
  readonly includeUsage: boolean
}

export interface Reader {
  readonly shape: Shape
  /** Where to resume the stream; null: from the beginning. */
  readonly resume: ResumePoint | null
}

/** A distinct name for each encoding of one answer. Bare text is the same in every API. */
export function bodyName({ api, as, includeUsage }: Shape): string {
  const name = as === 'sse' && includeUsage ? 'sse.usage' : as
  return api === 'completion' || as === 'text' ? name : `${api}.${name}`
}

/** A complete answer in a reader's shape. */
export function encodeWhole(folded: FoldedAnswer, reader: Reader): string {
  const { api, as } = reader.shape
  if (as !== 'json') return [...textsOf(folded, reader)].join('')
  return toJson(api === 'chat' ? chatCompletion(folded.completion) : folded.completion)
}

/**
 * Encodes deltas in order. Readers of a flight share it, so that one who joins later lets it encode
 * the same deltas again, to the same text.
 */
export type Encode = (delta: Delta) => string

/** The encoders of event streams. The head must be the first delta. */
const eventEncoders: Readonly<Record<Api, (includeUsage: boolean) => Encode>> = {
  completion: chunkEncoder,
  chat: chatChunkEncoder,
  'ai-sdk': uiMessageEncoder,
}

export const DONE = 'data: [DONE]\n\n'
/** Not `: ping`: at least one client drops the rest of that packet. */
export const KEEP_ALIVE = ':\n\n'

/** An error after the status was sent. The stream ends with it, without `[DONE]`. */
export function errorEvent(
  api: Api,
  body: { readonly error: { readonly message: string } },
): string {
  const event = api === 'ai-sdk' ? { type: 'error', errorText: body.error.message } : body
  return `data: ${toJson(event)}\n\n`
}

/** Encodes one reader's deltas in order. */
export function encoder({ api, as, includeUsage }: Shape, resume: ResumePoint | null): Encode {
  const cut = resume === null ? null : resumeFilter(resume)
  const encode = as === 'text' ? bareText : eventEncoders[api](includeUsage)
  if (cut === null) return encode
  return (delta) => {
    const left = cut(delta)
    return left === null ? '' : encode(left)
  }
}

const bareText: Encode = (delta) => (delta.kind === 'text' && delta.index === 0 ? delta.text : '')

/** A complete answer in a reader's shape, in pieces of at most `PIECE_CHARS`. */
export function* textsOf(folded: FoldedAnswer, { shape, resume }: Reader): Generator<string> {
  const encode = encoder(shape, resume)
  for (const delta of replay(folded)) {
    for (const part of partsOf(delta)) {
      const text = encode(part)
      if (text !== '') yield* piecesOf(text)
    }
  }
  if (shape.as === 'sse') yield DONE
}

/** Splits a long text into several deltas, unless it has log probabilities of all of it. */
export function* partsOf(delta: Delta): Generator<Delta> {
  const isLong = delta.kind === 'text' && delta.text.length > PIECE_CHARS
  if (!isLong || delta.logprobs !== null) return yield delta
  for (const text of piecesOf(delta.text)) yield { ...delta, text }
}

/**
 * UTF-16 units enqueued for a reader at a time. A slow reader costs only this much memory, because
 * the answer itself is shared by all readers.
 */
export const PIECE_CHARS = 32_768

/** Splits a text into pieces of at most `PIECE_CHARS`, never within a surrogate pair. */
function* piecesOf(text: string): Generator<string> {
  let at = 0
  while (text.length - at > PIECE_CHARS) {
    const end = at + PIECE_CHARS
    const next = isHighSurrogate(text.charCodeAt(end - 1)) ? end - 1 : end
    yield text.slice(at, next)
    at = next
  }
  yield text.slice(at)
}

const isHighSurrogate = (unit: number) => unit >= 0xd800 && unit <= 0xdbff
