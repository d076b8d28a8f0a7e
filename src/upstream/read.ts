// Reads the body of an answer and pushes its raw deltas: an event stream, JSON, or JSON lines. Also
// decides how long to read on after every choice has finished, and which failures are ignored then.
import type { RawDelta } from '../completion/delta.ts'
import { GatewayError } from '../errors.ts'
import type { Upstream } from './adapter.ts'
import type { BodyReader, BodyText } from './body.ts'
import { upstreamFailure } from './failure.ts'
import { isComplete, JsonEnd, JsonLines, separated, valuesOf } from './message.ts'
import type { Progress } from './normalise.ts'
import { type SseMessage, SseOverflow, SseReader } from './sse.ts'
import type { Watchdog } from './watchdog.ts'

export interface ReadContext {
  readonly upstream: Upstream
  readonly watchdog: Watchdog
  /** The progress of the answer, including the deltas pushed so far. */
  readonly progress: () => Progress
  /** Takes the deltas of a chunk of the body, if it had any. */
  readonly push: (deltas: readonly RawDelta[]) => void
}

/** The body was cut or stalled, but the answer counts. */
const CUT: readonly RawDelta[] = [{ kind: 'cut' }]

/**
 * Detects the format from the content, since the content types of servers are unreliable.
 *
 * @throws GatewayError `upstream_truncated`, `upstream_bad_response`, `upstream_timeout`, or what an
 *   event reports
 */
export async function readAnswer(body: BodyReader, context: ReadContext): Promise<void> {
  const start = await body.start()
  if (start === '') throw upstreamFailure('bad_response', { code: 'empty' })
  if (start === '<') throw upstreamFailure('bad_response', { code: 'html' })
  if (start === '{' || start === '[') await readJson(body, context)
  else await readMessages(new SseReader(body.maxBytes), await body.next(), body, context)
}

/**
 * One JSON value, or several, one per line. Anything but another value is ignored after a whole
 * value: a terminator, a lost connection, a timeout.
 */
async function readJson(body: BodyReader, context: ReadContext): Promise<void> {
  const end = new JsonEnd()
  let text = ''
  let length: number | null = null
  let whole: Whole | null = null
  for (;;) {
    const { text: piece, broken } = await body.next()
    text += piece ?? ''
    length ??= end.find(piece ?? '')
    if (length === null) {
      if (piece === null) throw broken ?? upstreamFailure('truncated')
      continue
    }
    if (/^\s*\{/.test(text.slice(length))) {
      return await readMessages(new JsonLines(), { text, broken: null }, body, context)
    }
    whole ??= readWhole(context.upstream, text.slice(0, length))
    if (piece === null || text.slice(length).trim() !== '') {
      if (whole.failure !== null) throw whole.failure
      // Without a finish reason, a lost connection may have cut more values off. After a timeout no
      // more are expected.
      if (broken !== null && !whole.isFinished && !isSilence(broken)) throw broken
      return context.push(whole.deltas)
    }
    context.watchdog.finished(whole.isFinished)
  }
}

interface Whole {
  readonly deltas: readonly RawDelta[]
  readonly failure: unknown
  /** The answer has its finish reasons, or is an error with a status: nothing more is expected. */
  readonly isFinished: boolean
}

function readWhole(upstream: Upstream, text: string): Whole {
  try {
    const deltas = upstream.fromBody(JSON.parse(text))
    const broken = deltas.find((delta) => delta.kind === 'failed')
    // Nothing has been sent to the visitor, so this can be an HTTP error, or fall back.
    if (broken !== undefined) throw upstreamFailure('bad_response', { code: 'gave_up' })
    // With an inferred reason, this may be the first of several lines.
    const isFinished = !deltas.some((delta) => delta.kind === 'finish' && delta.inferred === true)
    return { deltas, failure: null, isFinished }
  } catch (error) {
    const isTorn = error instanceof SyntaxError
    const kind = isTorn ? 'truncated' : 'bad_response'
    const failure = error instanceof GatewayError ? error : upstreamFailure(kind)
    return { deltas: [], failure, isFinished: failure.code !== 'upstream_bad_response' }
  }
}

/** Splits a body's text into messages. */
interface Framing {
  feed(text: string): readonly SseMessage[]
  end(): readonly SseMessage[]
}

/** @param first the first text of the body, or all that has been read so far */
async function readMessages(
  framing: Framing,
  first: BodyText,
  body: BodyReader,
  context: ReadContext,
): Promise<void> {
  const { upstream, watchdog, progress, push } = context
  for (let next = first; ; next = await body.next()) {
    const { text: piece, broken } = next
    const { messages, isTorn, failure } = messagesOf(framing, piece)
    let deltas: RawDelta[] = []
    for (const message of messages) {
      const reported = translate(upstream, message, deltas)
      if (reported === null && !hasEnded(deltas)) continue
      if (deltas.length > 0) push(deltas)
      if (reported === null || !survive(reported, context)) return
      deltas = []
    }
    if (deltas.length > 0) push(deltas)
    const end = failure ?? broken
    if (end !== null) return void survive(end, context)
    if (isTorn) survive(upstreamFailure('truncated'), context)
    if (piece === null) return
    watchdog.finished(progress() === 'finished')
  }
}

interface Messages {
  readonly messages: readonly SseMessage[]
  /** The last line is incomplete: the body was cut, and the server did not send an invalid one. */
  readonly isTorn: boolean
  readonly failure: unknown
}

/** @param piece null: the body has ended */
function messagesOf(framing: Framing, piece: string | null): Messages {
  try {
    if (piece !== null) {
      return { messages: separated(framing.feed(piece)), isTorn: false, failure: null }
    }
    const all = separated(framing.end()).flatMap(valuesOf)
    const messages = all.filter(isComplete)
    return { messages, isTorn: messages.length < all.length, failure: null }
  } catch (failure) {
    return { messages: [], isTorn: false, failure }
  }
}

/**
 * Ignores a failure if the answer counts without what it has cut off.
 *
 * @returns whether each choice has finished, so that usage may still follow
 * @throws the failure if the answer does not count
 */
function survive(error: unknown, { progress, push }: ReadContext): boolean {
  const failure = knownFailure(error)
  const state = progress()
  // Some servers leave the connection open after the answer, so a timeout can be its end; a lost
  // connection cannot.
  if (state !== 'finished' && !(state === 'claimed' && isSilence(failure))) throw failure
  push(CUT)
  return state === 'finished'
}

function knownFailure(error: unknown): unknown {
  if (error instanceof SseOverflow) return upstreamFailure('bad_response', { code: 'too_large' })
  // The JSON is nested too deeply to be walked.
  return error instanceof RangeError ? upstreamFailure('bad_response') : error
}

const isSilence = (failure: unknown) =>
  failure instanceof GatewayError && failure.code === 'upstream_timeout'

/**
 * Appends the deltas of a message.
 *
 * @returns the failure that followed them, or null
 */
function translate(upstream: Upstream, message: SseMessage, deltas: RawDelta[]): unknown {
  try {
    deltas.push(...upstream.fromMessage(message))
    return null
  } catch (failure) {
    const values = valuesOf(message)
    if (values.length < 2 && values[0]?.data === message.data) return failure
    for (const value of values) {
      const inner = translate(upstream, value, deltas)
      if (inner !== null || hasEnded(deltas)) return inner
    }
    return null
  }
}

/** Nothing after the terminator belongs to the answer. */
function hasEnded(deltas: readonly RawDelta[]): boolean {
  return deltas.at(-1)?.kind === 'end'
}
