// Resumes an answer for a reader that lost its connection: `Last-Event-ID: <completion id>:<n>`, with
// the id as a completion's or as a chat's, where n is the number of UTF-16 units of choice 0 that it has received. Only choice 0 is resumed.
import type { Logprobs } from './completion.ts'
import type { Delta } from './delta.ts'

export interface ResumePoint {
  readonly id: string
  readonly characters: number
}

/** Parses the header; null if it is malformed, in which case it is ignored. */
export function parseResumePoint(header: string | null): ResumePoint | null {
  const [, id, digits] = /^(?:chat)?(cmpl-[A-Za-z0-9]{24,64}):(\d{1,9})$/.exec(header ?? '') ?? []
  return id === undefined ? null : { id, characters: Number(digits) }
}

/**
 * Returns a filter for one reader's deltas that removes the text it has received. Deltas of another
 * answer pass unchanged.
 */
export function resumeFilter(point: ResumePoint): (delta: Delta) => Delta | null {
  let left = 0
  return (delta) => {
    if (delta.kind === 'head') left = delta.head.id === point.id ? point.characters : 0
    if (delta.kind !== 'text' || delta.index !== 0 || left === 0) return delta
    const cut = Math.min(left, delta.text.length)
    left -= cut
    const text = delta.text.slice(cut)
    return text === '' ? null : { ...delta, text, logprobs: withoutFirst(delta.logprobs, cut) }
  }
}

/** The log probabilities of the tokens that begin at or after the cut. */
function withoutFirst(logprobs: Logprobs | null, characters: number): Logprobs | null {
  if (logprobs === null) return null
  const { tokens, token_logprobs, top_logprobs, text_offset } = logprobs
  let at = 0
  const first = tokens.findIndex((token) => {
    const start = at
    at += token.length
    return start >= characters
  })
  if (first === -1) return null
  return {
    tokens: tokens.slice(first),
    token_logprobs: token_logprobs.slice(first),
    top_logprobs: top_logprobs?.slice(first) ?? null,
    text_offset: text_offset.slice(first),
  }
}
