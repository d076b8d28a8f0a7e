// The events in the owner's log. No event may contain a prompt, a completion, a token, a key, an
// address or an upstream's text: values are codes, counts, ids and names from CONFIG.
import type { Code } from './errors.ts'
import type { Fault } from './validation.ts'

/** How the cache served a request. */
export type CacheWord =
  | 'memory'
  | 'kv'
  | 'flight'
  | 'stale'
  | 'previous'
  | 'collapsed'
  | 'miss'
  | 'bypass'

/** Logged once per request. */
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

/** Why a page could not be read. */
export type PageFault =
  | 'unreachable'
  | 'timeout'
  | 'status'
  | 'redirects'
  /** A redirect leads to an address that is not allowed. */
  | 'elsewhere'
  | 'type'
  | 'charset'
  | 'too_large'
  | 'broken'
  | 'empty'

/** Why an answer that was served may be incomplete and is not stored. */
export type NotStoredReason =
  /** A choice had an index beyond `n`, and was dropped. */
  | 'unknown_index'
  /** The stream was cut or stalled after a finish reason that may not have been the last. */
  | 'doubtful_end'
  /** The upstream sent no finish reason for a choice. */
  | 'no_reason'
  /** Log probabilities were requested but not returned. */
  | 'no_logprobs'
  /** An echo of the prompt was requested but not returned. */
  | 'no_echo'

export type Event =
  | RequestEvent
  | { readonly event: 'misconfigured'; readonly faults: readonly Fault[] }
  /** A failed attempt at an upstream. `hint` names what the owner should check. */
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
  /** An answer was served but not stored. `hint` names what the owner should change. */
  | {
      readonly event: 'answer_not_stored'
      readonly request_id: string
      readonly upstream: string
      readonly reason: NotStoredReason
      readonly hint: string
    }
  /** An upstream completed an answer. `request_id` is the leader's. */
  | {
      readonly event: 'generated'
      readonly request_id: string
      readonly upstream: string
      /** The model's alias. */
      readonly model: string
      /** The upstream's own name of the model. */
      readonly upstream_model: string
      /** The upstream's id of the answer, for its support. */
      readonly upstream_id: string | null
      /** The locked prompt, and the origin of the page, of the leader's request. */
      readonly prompt_id: string | null
      readonly origin: string | null
      /** Time to the first text. */
      readonly first_ms: number
      /** Total time. */
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
  /** A locked prompt's page could not be read; the last answer may have been served. */
  | { readonly event: 'page_failed'; readonly request_id: string; readonly reason: PageFault }
  /** A flight object was unreachable; the request was answered without it. */
  | { readonly event: 'flight_unreachable'; readonly request_id: string }
  /** 50, 80 or 100 percent of the day's budget are spent. */
  | { readonly event: 'budget_mark'; readonly percent: number }
  /** A target of these models ends within 60, 30 or 7 days, or is gone. Logged once for each step. */
  | {
      readonly event: 'model_ending'
      /** The models' aliases. */
      readonly models: readonly string[]
      readonly upstream: string
      readonly upstream_model: string
      readonly step: 60 | 30 | 7 | 'gone'
      /** Such as "2027-01-31". */
      readonly ends_on: string | null
    }
  | { readonly event: 'alert_failed'; readonly status: number | null }
  /** A call cost more than it had reserved. `counted` is what was charged to the budget. */
  | {
      readonly event: 'usage_above_reservation'
      readonly reported: number
      readonly reserved: number
      readonly counted: number
      readonly usd_reported: number
      readonly usd_reserved: number
      readonly usd_counted: number
    }
  /** A lease could not be settled: it expires and counts as spent. */
  | { readonly event: 'settle_failed' }
  /** A visitor's token or challenge was refused. The error message does not contain the reason. */
  | { readonly event: 'visitor_refused'; readonly request_id: string; readonly reason: string }
  /** An unexpected error: its name and stack, without its message. */
  | {
      readonly event: 'internal'
      readonly request_id: string | null
      readonly name: string
      readonly at: readonly string[]
    }

export type Report = (event: Event) => void

/** The event of an unexpected error. */
export function internalEvent(error: unknown, requestId: string | null): Event {
  const { name, stack = '' } = error instanceof Error ? error : { name: typeof error }
  const at = stack
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => /^at [\w.#<>[\] ]*\(?[^()]*:\d+:\d+\)?$/.test(line))
  return { event: 'internal', request_id: requestId, name, at: at.slice(0, 8) }
}
