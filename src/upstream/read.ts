// Reads the body of an answer as batches of raw deltas: an event stream, JSON, or JSON lines. Also
// decides how long to read on after every choice has finished, and which failures are ignored then.
import type { RawDelta } from '../completion/delta.ts'
import { GatewayError } from '../errors.ts'
import type { Upstream } from './adapter.ts'
import type { BodyReader } from './body.ts'
import { upstreamFailure } from './failure.ts'
import { isComplete, JsonEnd, JsonLines, separated, valuesOf } from './message.ts'
import type { Progress } from './normalise.ts'
import { type SseMessage, SseOverflow, SseReader } from './sse.ts'
import type { Watchdog } from './watchdog.ts'

export interface ReadContext {
  readonly upstream: Upstream
  readonly watchdog: Watchdog
  /** The progress of the answer; called after the deltas so far have been consumed. */
  readonly progress: () => Progress
}

/** The body was cut or stalled, but the answer counts. */
const CUT: readonly RawDelta[] = [{ kind: 'cut' }]

/**
 * The deltas of a body, one batch for each chunk that contained any.
 *
 * @throws GatewayError `upstream_truncated`, `upstream_bad_response`, `upstream_timeout`, or what an
 *   event reports
 */
export async function* readAnswer(
  body: BodyReader,
  context: ReadContext,
): AsyncGenerator<readonly RawDelta[]> {
  try {
    yield* readBody(body, context)
  } catch (error) {
    const failure = knownFailure(error)
    if (!(failure instanceof GatewayError)) throw failure
    const state = context.progress()
    // Some servers leave the connection open after the answer, so a timeout can be its end; a lost
    // connection cannot.
    if (state !== 'finished' && !(state === 'claimed' && isSilence(failure))) throw failure
    yield CUT
  }
}

function knownFailure(error: unknown): unknown {
  if (error instanceof SseOverflow) return upstreamFailure('bad_response', { code: 'too_large' })
  // The JSON is nested too deeply to be walked.
  return error instanceof RangeError ? upstreamFailure('bad_response') : error
}

const isSilence = ({ code }: GatewayError) => code === 'upstream_timeout'

/** Detects the format from the content, since the content types of servers are unreliable. */
async function* readBody(
  body: BodyReader,
  context: ReadContext,
): AsyncGenerator<readonly RawDelta[]> {
  const start = await body.start()
  if (start === '') throw upstreamFailure('bad_response', { code: 'empty' })
  if (start === '<') throw upstreamFailure('bad_response', { code: 'html' })
  if (start === '{' || start === '[') return yield* readJson(body, context)
  const events = new SseReader(body.options.maxBytes)
  yield* readMessages(events, await nextOf(body), body, context)
}

/**
 * One JSON value, or several, one per line. Anything but another value is ignored after a whole
 * value: a terminator, a lost connection, a timeout.
 */
async function* readJson(
  body: BodyReader,
  context: ReadContext,
): AsyncGenerator<readonly RawDelta[]> {
  const end = new JsonEnd()
  let text = ''
  let length: number | null = null
  let whole: Whole | null = null
  for (;;) {
    const { piece, broken } = await nextOf(body)
    text += piece ?? ''
    length ??= end.find(text)
    if (length === null) {
      if (piece === null) throw broken ?? upstreamFailure('truncated')
      continue
    }
    if (/^\s*\{/.test(text.slice(length))) {
      return yield* readMessages(new JsonLines(), { piece: text, broken: null }, body, context)
    }
    whole ??= readWhole(context.upstream, text.slice(0, length))
    if (piece === null || text.slice(length).trim() !== '') {
      if (whole.failure !== null) throw whole.failure
      // Without a finish reason, a lost connection may have cut more values off. After a timeout no
      // more are expected.
      if (broken !== null && !whole.isFinished && !isSilence(broken)) throw broken
      yield whole.deltas
      return
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

/** The next text of a body; null at its end, with the error that ended it, if any. */
interface Next {
  readonly piece: string | null
  readonly broken: GatewayError | null
}

/** @throws the reason of the caller's signal: the text so far is not needed then */
async function nextOf(body: BodyReader): Promise<Next> {
  try {
    return { piece: await body.next(), broken: null }
  } catch (broken) {
    if (!(broken instanceof GatewayError)) throw broken
    return { piece: null, broken }
  }
}

/** Splits a body's text into messages. */
interface Framing {
  feed(text: string): readonly SseMessage[]
  end(): readonly SseMessage[]
}

/** @param first the first text of the body, or all that has been read so far */
async function* readMessages(
  framing: Framing,
  first: Next,
  body: BodyReader,
  { upstream, watchdog, progress }: ReadContext,
): AsyncGenerator<readonly RawDelta[]> {
  for (let next = first; ; next = await nextOf(body)) {
    const { piece, broken } = next
    const lines = separated(piece === null ? framing.end() : framing.feed(piece))
    const messages = piece === null ? lines.flatMap(valuesOf) : lines
    // An incomplete last line means that the body was cut, not that the server sent an invalid
    // message.
    const whole = piece === null ? messages.filter(isComplete) : messages
    let deltas: RawDelta[] = []
    for (const message of whole) {
      const failure = translate(upstream, message, deltas)
      if (failure === null && !hasEnded(deltas)) continue
      if (deltas.length > 0) yield deltas
      if (failure === null) return
      yield surviving(failure, progress)
      deltas = []
    }
    if (deltas.length > 0) yield deltas
    if (broken !== null) throw broken
    if (whole.length < messages.length) yield surviving(upstreamFailure('truncated'), progress)
    if (piece === null) return
    watchdog.finished(progress() === 'finished')
  }
}

/** @throws the failure, unless every choice has finished: then failures are ignored */
function surviving(failure: unknown, progress: () => Progress): readonly RawDelta[] {
  if (progress() !== 'finished') throw failure
  return CUT
}

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
