// Reads an answer's body as batches of raw deltas: an event stream, JSON, or JSON lines. Also decides how
// long to go on reading when every choice has finished, and which failures no longer matter then.
import type { RawDelta } from '../completion/delta.ts'
import { GatewayError } from '../errors.ts'
import type { Upstream } from './adapter.ts'
import type { BodyReader } from './body.ts'
import { upstreamFailure } from './failure.ts'
import { isComplete, JsonEnd, JsonLines, separated } from './message.ts'
import type { Progress } from './normalise.ts'
import { type SseMessage, SseOverflow, SseReader } from './sse.ts'
import type { Watchdog } from './watchdog.ts'

export interface ReadContext {
  readonly upstream: Upstream
  readonly watchdog: Watchdog
  /** How far the answer is, asked each time the deltas so far have been taken. */
  readonly progress: () => Progress
}

/** The body broke, or was given up, and the answer stands. */
const CUT: readonly RawDelta[] = [{ kind: 'cut' }]

/**
 * The deltas of a body, one batch for what came of it at once, if that held any.
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
    // A server that does not hang up ends in silence; a connection that breaks is no such end.
    if (state !== 'finished' && !(state === 'claimed' && isSilence(failure))) throw failure
    yield CUT
  }
}

function knownFailure(error: unknown): unknown {
  if (error instanceof SseOverflow) return upstreamFailure('bad_response', { code: 'too_large' })
  // Nested too deeply to be gone through.
  return error instanceof RangeError ? upstreamFailure('bad_response') : error
}

const isSilence = ({ code }: GatewayError) => code === 'upstream_timeout'

/** Sniffs what the body is, since servers' declared types are not to be trusted. */
async function* readBody(
  body: BodyReader,
  context: ReadContext,
): AsyncGenerator<readonly RawDelta[]> {
  const start = await body.start()
  if (start === '') throw upstreamFailure('bad_response', { code: 'empty' })
  if (start === '<') throw upstreamFailure('bad_response', { code: 'html' })
  if (start === '{' || start === '[') return yield* readJson(body, context)
  const events = new SseReader({ maxMessageChars: body.maxBytes })
  yield* readMessages(events, await nextOf(body), body, context)
}

/**
 * One JSON value, or several, a line each. What follows a whole value and is no other one changes
 * nothing: a terminator, a break, silence.
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
      // Without a reason a break is all that tells of its end; silence says that nothing more comes.
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
  /** It is a whole answer by its own reasons, or an error with a status: nothing more is to come. */
  readonly isFinished: boolean
}

function readWhole(upstream: Upstream, text: string): Whole {
  try {
    const deltas = upstream.fromBody(JSON.parse(text))
    const broken = deltas.find((delta) => delta.kind === 'failed')
    // All of it is here: this can still be a real status, and another upstream's answer.
    if (broken !== undefined) throw upstreamFailure('bad_response', { code: 'gave_up' })
    // An inferred reason: it may be the first line of several.
    const isFinished = !deltas.some((delta) => delta.kind === 'finish' && delta.inferred === true)
    return { deltas, failure: null, isFinished }
  } catch (error) {
    const isTorn = error instanceof SyntaxError
    const kind = isTorn ? 'truncated' : 'bad_response'
    const failure = error instanceof GatewayError ? error : upstreamFailure(kind)
    return { deltas: [], failure, isFinished: failure.code !== 'upstream_bad_response' }
  }
}

/** A piece of a body, or null at its end, with what broke it. */
interface Next {
  readonly piece: string | null
  readonly broken: GatewayError | null
}

/** @throws the caller's own reason to stop: nobody waits for what has come then */
async function nextOf(body: BodyReader): Promise<Next> {
  try {
    return { piece: await body.next(), broken: null }
  } catch (broken) {
    if (!(broken instanceof GatewayError)) throw broken
    return { piece: null, broken }
  }
}

/** Takes a body's text and hands out messages. */
interface Framing {
  feed(text: string): readonly SseMessage[]
  end(): readonly SseMessage[]
}

/** @param first the first piece of the body, or all that has been read of it */
async function* readMessages(
  framing: Framing,
  first: Next,
  body: BodyReader,
  { upstream, watchdog, progress }: ReadContext,
): AsyncGenerator<readonly RawDelta[]> {
  for (let next = first; ; next = await nextOf(body)) {
    const { piece, broken } = next
    const messages = separated(piece === null ? framing.end() : framing.feed(piece))
    // A torn last line is the mark of a body cut short, not of a server that talks nonsense.
    const whole = piece === null ? messages.filter(isComplete) : messages
    for (let at = 0; at < whole.length; ) {
      const { deltas, failure, read, ended } = translate(upstream, whole, at)
      if (deltas.length > 0) yield deltas
      if (ended) return
      if (failure !== null) yield surviving(failure, progress)
      at = read
    }
    if (broken !== null) throw broken
    if (whole.length < messages.length) yield surviving(upstreamFailure('truncated'), progress)
    if (piece === null) return
    watchdog.finished(progress() === 'finished')
  }
}

/** @throws the failure, unless every choice has finished: then nothing that comes can fail it */
function surviving(failure: unknown, progress: () => Progress): readonly RawDelta[] {
  if (progress() !== 'finished') throw failure
  return CUT
}

interface Translated {
  readonly deltas: readonly RawDelta[]
  /** What went wrong after those deltas. */
  readonly failure: unknown
  /** How many of the messages have been read. */
  readonly read: number
  readonly ended: boolean
}

function translate(upstream: Upstream, messages: readonly SseMessage[], from: number): Translated {
  const deltas: RawDelta[] = []
  let read = from
  for (const message of from === 0 ? messages : messages.slice(from)) {
    read += 1
    try {
      deltas.push(...upstream.fromMessage(message))
    } catch (failure) {
      return { deltas, failure, read, ended: false }
    }
    // What follows the terminator is no part of the answer.
    if (deltas.at(-1)?.kind === 'end') return { deltas, failure: null, read, ended: true }
  }
  return { deltas, failure: null, read, ended: false }
}
