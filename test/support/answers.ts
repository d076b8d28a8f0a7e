// Strict parsers for responses: completions, streams of chunks and error objects. An unknown
// field fails as much as a missing one.
import * as v from 'valibot'
import { expect } from 'vitest'
import {
  type Completion,
  completionSchema,
  finishReasons,
} from '../../src/completion/completion.ts'
import { type Code, codes } from '../../src/errors.ts'
import type { RequestEvent } from '../../src/events.ts'
import { ORIGIN, type Reply } from './client.ts'
import type { WorkerLog } from './worker-log.ts'

const chunkSchema = v.strictObject({
  ...v.omit(completionSchema, ['choices', 'usage']).entries,
  choices: v.array(
    v.strictObject({
      ...completionSchema.entries.choices.item.entries,
      finish_reason: v.nullable(v.picklist(finishReasons)),
    }),
  ),
  usage: v.optional(v.nullable(completionSchema.entries.usage)),
})
type Chunk = v.InferOutput<typeof chunkSchema>

const problemSchema = v.strictObject({
  error: v.strictObject({
    // An invalid request (`Cannot …`), or sentences with what happened and what helps.
    message: v.pipe(v.string(), v.regex(/^(Cannot [^\n]*[^.\s]|(?!Cannot)[A-Z][^\n]*\.)$/)),
    type: v.picklist([
      'invalid_request_error',
      'authentication_error',
      'permission_error',
      'rate_limit_error',
      'api_error',
    ]),
    param: v.nullable(v.string()),
    code: v.picklist(codes),
  }),
})
export type ProblemObject = v.InferOutput<typeof problemSchema>['error']

/** Some readers split lines at these, so that they are always escaped. */
const SEPARATORS = /[\u0085\u2028\u2029]/

/** Parses a whole completion. */
export function completionOf(reply: Reply): Completion {
  expect(reply.status, reply.text).toBe(200)
  expect(reply.headers['content-type']).toBe('application/json')
  expect(reply.text).not.toMatch(SEPARATORS)
  return v.parse(completionSchema, JSON.parse(reply.text))
}

/** A parsed stream. */
export interface Stream {
  readonly chunks: readonly Chunk[]
  /** The error event at the end, if any. */
  readonly problem: ProblemObject | null
  /** Whether the stream ended with one `[DONE]`. */
  readonly done: boolean
  /** The joined text of one choice. */
  text(index?: number): string
  finish(index?: number): string | null
  readonly usage: Completion['usage'] | null
}

/** Parses an error response. */
export function problemOf(reply: Reply): ProblemObject {
  expect(reply.headers['content-type']).toBe('application/json')
  expect(reply.text).not.toMatch(SEPARATORS)
  return v.parse(problemSchema, JSON.parse(reply.text)).error
}

/** Parses an event stream: one `data:` line per event, and comments of `:` alone. */
export function streamOf(reply: Reply): Stream {
  expect(reply.status, reply.text).toBe(200)
  expect(reply.headers['content-type']).toBe('text/event-stream; charset=utf-8')
  return parseStream(reply.text)
}

/** The JSON of an event stream, without its comments, and whether it ended with `[DONE]`. */
export function objectsOf(body: string): { readonly objects: unknown[]; readonly done: boolean } {
  expect(body).not.toMatch(SEPARATORS)
  const blocks = body.split('\n\n')
  expect(blocks.pop(), 'the last event ends with a blank line').toBe('')
  const data = blocks
    .filter((block) => block !== ':')
    .map((block) => {
      expect(block).toMatch(/^data: [^\n\r]*$/)
      return block.slice('data: '.length)
    })
  const done = data.at(-1) === '[DONE]'
  if (done) data.pop()
  return { objects: data.map((text): unknown => JSON.parse(text)), done }
}

export function parseStream(body: string): Stream {
  const { objects, done } = objectsOf(body)
  const last = v.safeParse(problemSchema, objects.at(-1))
  if (last.success) objects.pop()
  const chunks = objects.map((object) => v.parse(chunkSchema, object))
  expect(done && last.success, 'an error is not followed by [DONE]').toBe(false)
  expect(new Set(chunks.map(({ id, created, model }) => `${id} ${created} ${model}`)).size).toBe(1)
  // Usage is null in all chunks but one without choices, which a complete stream ends with.
  const usages = chunks.map(({ choices, usage }) => (choices.length > 0 ? usage : 'last'))
  const isAsked = usages[0] !== undefined
  expect(usages).toEqual([
    ...Array(chunks.length - (isAsked && done ? 1 : 0)).fill(isAsked ? null : undefined),
    ...(isAsked && done ? ['last'] : []),
  ])
  const of = (index: number) =>
    chunks.flatMap(({ choices }) => choices).filter((choice) => choice.index === index)
  for (const index of new Set(chunks.flatMap(({ choices }) => choices.map((c) => c.index)))) {
    const reasons = of(index).map(({ finish_reason }) => finish_reason)
    expect(reasons.slice(0, -1).every((reason) => reason === null)).toBe(true)
    if (done) expect(reasons.at(-1)).not.toBeNull()
  }
  return {
    chunks,
    problem: last.success ? last.output.error : null,
    done,
    text: (index = 0) =>
      of(index)
        .map(({ text }) => text)
        .join(''),
    finish: (index = 0) => of(index).at(-1)?.finish_reason ?? null,
    usage: chunks.findLast(({ usage }) => usage !== undefined && usage !== null)?.usage ?? null,
  }
}

/**
 * Expects an error response that the calling page can read, and exactly one request event with the
 * same status and code.
 *
 * @param origin the page that may read it, "*" for every page, null for none
 */
export async function expectProblem(
  reply: Reply,
  status: number,
  code: Code,
  log: WorkerLog,
  origin: string | null = ORIGIN,
): Promise<ProblemObject & { readonly event: RequestEvent }> {
  const got = problemIn(reply.text)
  expect({ status: reply.status, code: got?.code ?? reply.text }).toEqual({ status, code })
  expectPlainHeaders(reply, origin)
  expect(reply.headers['cache-control']).toBe('no-store')
  if (status === 429) expect(reply.headers['retry-after']).toMatch(/^[1-9]\d*$/)
  const event = await requestEvent(reply, log)
  expect({ status: event.status, code: event.code }).toEqual({ status, code })
  return { ...problemOf(reply), event }
}

/** Expects the headers that every response has. */
export function expectPlainHeaders(reply: Reply, origin: string | null): void {
  expect(reply.headers['access-control-allow-origin'] ?? null).toBe(origin)
  expect(reply.headers['access-control-allow-credentials']).toBeUndefined()
  expect(reply.headers['vary']).toMatch(/(^|, )Origin(,|$)/)
  expect(reply.headers['x-request-id']).toMatch(/^req_[0-9a-f]{32}$/)
  if (origin === null) return
  expect(reply.headers['access-control-expose-headers']).toContain('X-Request-Id')
}

/** The single request event for this reply. */
export async function requestEvent(reply: Reply, log: WorkerLog): Promise<RequestEvent> {
  const id = String(reply.headers['x-request-id'])
  const event = await log.request(id)
  expect(log.all('request', id)).toHaveLength(1)
  return event
}

function problemIn(text: string): ProblemObject | null {
  try {
    const result = v.safeParse(problemSchema, JSON.parse(text))
    return result.success ? result.output.error : null
  } catch {
    return null
  }
}
