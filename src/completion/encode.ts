// The shapes of an answer: JSON, an event stream or bare text, from the start or from the point where
// an earlier stream was interrupted. Event streams have the form that all known clients accept: one
// `data:` line per event, LF only, the same shape in every chunk, `[DONE]` last.

import { toJson } from '../json.ts'
import type { Logprobs } from './completion.ts'
import { type Delta, type FoldedAnswer, replay } from './delta.ts'
import { type ResumePoint, resumeFilter } from './resume.ts'

/** The format of an answer. */
export interface Shape {
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

/** A distinct name for each encoding of one answer. */
export function bodyName({ as, includeUsage }: Shape): string {
  return as === 'sse' && includeUsage ? 'sse.usage' : as
}

/** A complete answer in a reader's shape. */
export function encodeWhole(folded: FoldedAnswer, reader: Reader): string {
  if (reader.shape.as === 'json') return toJson(folded.completion)
  return [...textsOf(folded, reader)].join('')
}

export const DONE = 'data: [DONE]\n\n'
/** Not `: ping`: at least one client drops the rest of that packet. */
export const KEEP_ALIVE = ':\n\n'

/** An error after the status was sent. The stream ends with it, without `[DONE]`. */
export function errorEvent(body: unknown): string {
  return `data: ${toJson(body)}\n\n`
}

export type Encode = (delta: Delta) => string

/** Encodes one reader's deltas in order. */
export function encoder(shape: Shape, resume: ResumePoint | null): Encode {
  const cut = resume === null ? null : resumeFilter(resume)
  const encode = shape.as === 'text' ? bareText : chunkEncoder(shape)
  if (cut === null) return encode
  return (delta) => {
    const left = cut(delta)
    return left === null ? '' : encode(left)
  }
}

const bareText: Encode = (delta) => (delta.kind === 'text' && delta.index === 0 ? delta.text : '')

/** Encodes an event stream. The head must be first; every chunk repeats it. */
function chunkEncoder({ includeUsage }: Shape): Encode {
  // The parts that are the same in every chunk, as JSON.
  let start = ''
  const end = includeUsage ? '}],"usage":null}\n\n' : '}]}\n\n'
  const chunk = (text: string, index: number, logprobs: Logprobs | null, finish: string) =>
    `${start},"choices":[{"text":${toJson(text)},"index":${index},"logprobs":${toJson(logprobs)},"finish_reason":${finish}${end}`
  return (delta) => {
    switch (delta.kind) {
      case 'head': {
        const { id, created, model, system_fingerprint } = delta.head
        const head = { id, object: 'text_completion', created, model, system_fingerprint }
        start = `data: ${toJson(head).slice(0, -1)}`
        return ''
      }
      case 'text':
        return chunk(delta.text, delta.index, delta.logprobs, 'null')
      case 'finish':
        return chunk('', delta.index, null, `"${delta.reason}"`)
      case 'usage':
        return includeUsage ? `${start},"choices":[],"usage":${toJson(delta.usage)}}\n\n` : ''
      default:
        return delta satisfies never
    }
  }
}

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
