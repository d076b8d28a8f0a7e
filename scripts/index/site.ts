// The index of the site at the Worker: lists its pages, has one read into it, and removes one.
import * as v from 'valibot'
import { parseJson } from '../../src/json.ts'
import { canonicalAddressOf } from '../../src/page/rules.ts'
import {
  type Attempt,
  type RetryContext,
  retryWaitOf,
  withRetries,
} from '../operator/concurrent.ts'
import { type Answer, codeIn, type Gateway, refusalIn } from '../operator/gateway.ts'

/** A page of the index. */
export interface IndexedPage {
  readonly url: string
  readonly questions: number
}

interface Failed {
  readonly kind: 'failed'
  readonly code: string | null
  readonly reason: string
}

export type PutOutcome =
  | {
      readonly kind: 'indexed' | 'unchanged'
      readonly passages: number
      readonly questions: number
    }
  /** The settings of the Worker do not allow this page. */
  | { readonly kind: 'not-allowed'; readonly reason: string }
  | Failed

export type RemoveOutcome = { readonly kind: 'removed' } | Failed

const pageSchema = v.object({
  url: v.pipe(v.string(), v.url()),
  questions: v.number(),
})
const listSchema = v.object({ data: v.array(pageSchema) })
const storedSchema = v.object({
  status: v.picklist(['indexed', 'unchanged']),
  passages: v.number(),
  questions: v.number(),
})

/** The pages of the index by their names. @throws Error with a message for the user */
export async function listIndexed(gateway: Gateway): Promise<ReadonlyMap<string, IndexedPage>> {
  const { status, text } = await gateway.reach('/admin/site')
  const list = v.safeParse(listSchema, parseJson(text))
  if (status !== 200 || !list.success) {
    const reason =
      status === 200 ? 'the Worker is of another version: deploy this one' : refusalIn(status, text)
    throw new Error(`Cannot list the index of the Worker: ${reason}`)
  }
  return new Map(list.output.data.map((page) => [canonicalAddressOf(new URL(page.url)), page]))
}

/**
 * Has the Worker read a page into the index.
 *
 * @param questions replaces the questions of the page; absent: they stay while the page is unchanged
 */
export async function putPage(
  page: { readonly url: string; readonly questions?: readonly string[] },
  gateway: Gateway,
  retries: RetryContext,
): Promise<PutOutcome> {
  const init = {
    method: 'PUT',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(page),
  }
  const send = () => gateway.send('/admin/site/page', init)
  return await withRetries((pauseMs) => attempt<PutOutcome>(send, pauseMs, storedOf), retries)
}

/** Removes a page from the index. */
export async function removePage(
  url: string,
  gateway: Gateway,
  retries: RetryContext,
): Promise<RemoveOutcome> {
  const path = `/admin/site/page?${new URLSearchParams({ url })}`
  const send = () => gateway.send(path, { method: 'DELETE' })
  const read = ({ status }: Answer) => (status === 200 ? ({ kind: 'removed' } as const) : null)
  return await withRetries((pauseMs) => attempt<RemoveOutcome>(send, pauseMs, read), retries)
}

function storedOf({ status, text }: Answer): PutOutcome | null {
  if (codeIn(text) === 'page_not_allowed') {
    return { kind: 'not-allowed', reason: refusalIn(status, text) }
  }
  const stored = v.safeParse(storedSchema, status === 200 ? parseJson(text) : null)
  if (!stored.success) return null
  const { status: kind, passages, questions } = stored.output
  return { kind, passages, questions }
}

/** @param read null if the answer is a failure */
async function attempt<Outcome>(
  send: () => Promise<Answer>,
  pauseMs: number,
  read: (answer: Answer) => Outcome | null,
): Promise<Attempt<Outcome | Failed>> {
  try {
    const answer = await send()
    const outcome = read(answer)
    if (outcome !== null) return { outcome, waitMs: null }
    const { status, text } = answer
    const reason = refusalIn(status, text)
    return {
      outcome: { kind: 'failed', code: codeIn(text), reason },
      waitMs: retryWaitOf(answer),
    }
  } catch {
    return { outcome: { kind: 'failed', code: null, reason: 'no connection' }, waitMs: pauseMs }
  }
}
