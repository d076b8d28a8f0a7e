// A reader that lost its connection goes on where it stopped: `Last-Event-ID: <completion id>:<n>`,
// n being the UTF-16 units of choice 0 it already has. Only choice 0 is cut.
import type { Logprobs } from './completion.ts'
import type { Delta } from './delta.ts'

export interface ResumePoint {
  readonly id: string
  readonly characters: number
}

/** The header's meaning; null for anything malformed, which is ignored. */
export function parseResumePoint(header: string | null): ResumePoint | null {
  const [, id, digits] = /^(cmpl-[A-Za-z0-9]{24,64}):(\d{1,9})$/.exec(header ?? '') ?? []
  return id === undefined ? null : { id, characters: Number(digits) }
}

/**
 * A filter for one reader's deltas, head first. It cuts only if the answer is the one the reader
 * has the beginning of; past the end nothing of the text is left.
 */
export function skipper(point: ResumePoint): (delta: Delta) => Delta | null {
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

/** Log probabilities of the tokens that begin after the cut. */
function withoutFirst(logprobs: Logprobs | null, characters: number): Logprobs | null {
  if (logprobs === null) return null
  const { tokens, token_logprobs, top_logprobs, text_offset } = logprobs
  let at = 0
  const gone = tokens.findIndex((token) => {
    const starts = at
    at += token.length
    return starts >= characters
  })
  if (gone === -1) return null
  return {
    tokens: tokens.slice(gone),
    token_logprobs: token_logprobs.slice(gone),
    top_logprobs: top_logprobs?.slice(gone) ?? null,
    text_offset: text_offset.slice(gone),
  }
}
