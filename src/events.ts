// What can happen, as data for the owner's log. No event may hold a prompt, a completion, a token, a
// key, an address or an upstream's own text: values here are codes, counts, names from CONFIG, ids.
import type { Code } from './errors.ts'
import type { Fault } from './faults.ts'

/** What the cache did for a request. */
export type CacheWord =
  | 'memory'
  | 'kv'
  | 'flight'
  | 'stale'
  | 'previous'
  | 'collapsed'
  | 'miss'
  | 'bypass'

/** One line per request (contract section 6). */
export interface RequestEvent {
  readonly event: 'request'
  readonly request_id: string
  readonly route: string
  readonly status: number
  readonly code: Code | null
  readonly cache: CacheWord | null
  readonly model: string | null
  readonly upstream: string | null
  readonly attempts: number
  readonly tokens_in: number
  readonly tokens_out: number
  readonly ms: number
  readonly visitor: string | null
  readonly origin: string | null
}

/** Why a page of the owner's could not be read. */
export type PageFault =
  | 'unreachable'
  | 'timeout'
  | 'status'
  | 'redirects'
  /** A redirect leads to what must not be read. */
  | 'elsewhere'
  | 'type'
  | 'charset'
  | 'too_large'
  | 'broken'
  | 'empty'

/** Why an answer that was served may not be all that was asked for, so that it is not stored. */
export type Doubt =
  /** A choice came under an index that nobody asked for, and was dropped. */
  | 'unknown_index'
  /** The upstream broke off or fell silent after a reason that may have been no end. */
  | 'doubtful_end'
  /** The upstream gave no reason for the end of a choice. */
  | 'no_reason'
  /** Log probabilities were asked for, and none came. */
  | 'no_logprobs'
  /** The upstream was asked to echo the prompt, and did not. */
  | 'no_echo'

export type Event =
  | RequestEvent
  | { readonly event: 'misconfigured'; readonly faults: readonly Fault[] }
  /** One attempt that brought no answer, and why. `hint` is what the owner should look at. */
  | {
      readonly event: 'upstream_failed'
      readonly request_id: string
      readonly upstream: string
      /** The model's alias. */
      readonly model: string
      readonly code: Code
      readonly status: number | null
      readonly reason: string | null
      readonly hint: string
      readonly will: 'retry' | 'fall_back' | 'give_up'
    }
  /** An answer was served and not stored. `hint` is what the owner should change. */
  | {
      readonly event: 'answer_not_stored'
      readonly request_id: string
      readonly upstream: string
      readonly reason: Doubt
      readonly hint: string
    }
  /** A whole answer of an upstream's. `request_id` is the first visitor's of those who got it. */
  | {
      readonly event: 'generated'
      readonly request_id: string
      readonly upstream: string
      /** The model's alias. */
      readonly model: string
      /** The upstream's own id of it, for its support. */
      readonly upstream_id: string | null
      /** Until its first text, and in all. */
      readonly first_ms: number
      readonly ms: number
      readonly tokens_in: number
      readonly tokens_out: number
      readonly stored: boolean
    }
  | {
      readonly event: 'cache_failed'
      readonly operation: 'get' | 'put' | 'delete'
      readonly reason: 'timeout' | 'error' | 'bad_value'
    }
  /** A locked prompt's page could not be read; an older text of it may have been used. */
  | { readonly event: 'page_failed'; readonly request_id: string; readonly reason: PageFault }
  /** A key's flight object did not answer; the request was answered without it. */
  | { readonly event: 'flight_unreachable'; readonly request_id: string }
  /** Half, four fifths or all of the day's budget are spent. */
  | { readonly event: 'budget_mark'; readonly percent: number }
  | { readonly event: 'alert_failed'; readonly status: number | null }
  /** An upstream said that a call cost more than it can have cost. */
  | { readonly event: 'usage_clamped'; readonly said: number; readonly reserved: number }
  /** A lease could not be ended: it expires as spent. */
  | { readonly event: 'settle_failed' }
  /** Why a visitor's token or challenge did not count; the visitor hears one sentence for all. */
  | { readonly event: 'visitor_refused'; readonly request_id: string; readonly reason: string }
  /** A fault of our own: where it was thrown, never what it said. */
  | {
      readonly event: 'internal'
      readonly request_id: string | null
      readonly name: string
      readonly at: readonly string[]
    }

export type Report = (event: Event) => void

/** An error that is not ours, as an event: its name and stack, without its message. */
export function internalEvent(error: unknown, requestId: string | null): Event {
  const at =
    error instanceof Error
      ? (error.stack ?? '')
          .split('\n')
          .map((line) => line.trim())
          .filter((line) => /^at [\w.#<>[\] ]*\(?[^()]*:\d+:\d+\)?$/.test(line))
          .slice(0, 8)
      : []
  return {
    event: 'internal',
    request_id: requestId,
    name: error instanceof Error ? error.name : typeof error,
    at,
  }
}
