// A flight's deltas as one reader's body: JSON, an event stream or bare text; from the start, from
// where the reader had stopped, live or whole. Knows no headers and no cache.
import type { Flight } from './cache/flight.ts'
import { type Delta, type Folded, replay } from './completion/delta.ts'
import { type ResumePoint, skipper } from './completion/resume.ts'
import { type Problem, problemOf } from './errors.ts'
import { problemBody } from './http/problem.ts'
import { toJson } from './json.ts'
import { ChunkEncoder, DONE, errorEvent, KEEP_ALIVE } from './sse/serialize.ts'

/** The form a reader wants. */
export interface Shape {
  readonly as: 'json' | 'sse' | 'text'
  /** False: the body is sent when it is whole. */
  readonly stream: boolean
  readonly includeUsage: boolean
}

export interface Reader {
  readonly shape: Shape
  /** Where a stream goes on; null: from its beginning. */
  readonly resume: ResumePoint | null
}

/** A name for each different body of one answer. */
export function bodyName({ as, includeUsage }: Shape): string {
  return as === 'sse' && includeUsage ? 'sse.usage' : as
}

/** A whole answer in a reader's shape. */
export function encodeWhole(folded: Folded, reader: Reader): string {
  if (reader.shape.as === 'json') return toJson(folded.completion)
  return [...textsOf(folded, reader)].join('')
}

/** The same of a stream, made piece by piece as the reader takes it: what few share is not kept. */
export function streamWhole(folded: Folded, reader: Reader): ReadableStream<Uint8Array> {
  const bytes = new TextEncoder()
  const texts = textsOf(folded, reader)
  return new ReadableStream<Uint8Array>(
    {
      pull(controller) {
        const { done, value } = texts.next()
        if (done === true) controller.close()
        else controller.enqueue(bytes.encode(value))
      },
    },
    { highWaterMark: 0 },
  )
}

function* textsOf(folded: Folded, { shape, resume }: Reader): Generator<string> {
  const encode = encoder(shape, resume)
  for (const delta of replay(folded)) {
    for (const part of partsOf(delta)) {
      const text = encode(part)
      if (text !== '') yield* piecesOf(text)
    }
  }
  if (shape.as === 'sse') yield DONE
}

/** A long text as several deltas. Log probabilities belong to all of it, so with them it stays one. */
function* partsOf(delta: Delta): Generator<Delta> {
  if (delta.kind !== 'text' || delta.logprobs !== null) return yield delta
  for (const text of piecesOf(delta.text)) yield { ...delta, text }
}

/**
 * UTF-16 units of a text that a reader is handed at once. What it has been handed and has not read
 * is all that a slow reader costs: the answer itself is there once for all of them.
 */
const PIECE_CHARS = 32_768

/** A text in pieces of at most `PIECE_CHARS`; no character is cut in two. */
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

/** The encoded form of a flight, made once for all readers of the same shape. */
export class Encodings {
  readonly #flight: Flight
  readonly #made = new Map<string, { readonly encode: Encode; readonly texts: string[] }>()

  constructor(flight: Flight) {
    this.#flight = flight
  }

  /** The reader's text as the flight goes on: what has come, in pieces of at most `PIECE_CHARS`. */
  async *read({ shape, resume }: Reader, left: AbortSignal): AsyncGenerator<string> {
    const textAt = resume === null ? this.#shared(shape) : this.#own(encoder(shape, resume))
    let position = 0
    for await (const end of this.#flight.progress(left)) {
      let piece = ''
      for (; position < end; position++) {
        const text = textAt(position)
        // Yielded before, not joined: joining would copy a long text for each reader.
        if (piece !== '' && piece.length + text.length > PIECE_CHARS) {
          yield piece
          piece = ''
        }
        if (text.length <= PIECE_CHARS) piece += text
        else yield* piecesOf(text)
      }
      yield piece
    }
    // Cut short by leaving: that must not look like the answer's end.
    left.throwIfAborted()
  }

  #shared(shape: Shape): (position: number) => string {
    const name = bodyName(shape)
    const made = this.#made.get(name) ?? { encode: encoder(shape, null), texts: [] }
    this.#made.set(name, made)
    const encode = this.#own(made.encode)
    return (position) => {
      for (let i = made.texts.length; i <= position; i++) made.texts.push(encode(i))
      return made.texts[position] ?? ''
    }
  }

  /** Of one reader alone, and kept nowhere. Positions must be asked for in order. */
  #own(encode: Encode): (position: number) => string {
    return (position) => {
      const delta = this.#flight.recording[position]
      return delta === undefined ? '' : encode(delta)
    }
  }
}

type Encode = (delta: Delta) => string

function encoder(shape: Shape, resume: ResumePoint | null): Encode {
  const cut = resume === null ? null : skipper(resume)
  const encode = shape.as === 'text' ? bareText : chunkEncoder(shape)
  if (cut === null) return encode
  return (delta) => {
    const left = cut(delta)
    return left === null ? '' : encode(left)
  }
}

const bareText: Encode = (delta) => (delta.kind === 'text' && delta.index === 0 ? delta.text : '')

function chunkEncoder({ includeUsage }: Shape): Encode {
  const chunks = new ChunkEncoder({ includeUsage })
  return (delta) => chunks.encode(delta)
}

/** How a stream ended: well, with a problem told in band, or with its reader gone. */
export type StreamEnd = 'whole' | 'left' | Problem

export interface StreamOptions {
  /** Silence after which a comment is sent. */
  readonly keepAliveMs: number
  readonly now: () => number
  readonly onEnd: (end: StreamEnd) => void
  /** The error behind a failed stream, for the log. */
  readonly onError: (error: unknown) => void
}

/**
 * Encoded text as a stream of bytes. `first` is what has come already, so that the caller could
 * still send a real status. A failure after that is an event in band; bare text can only break off.
 */
export function streamAnswer(
  first: string,
  rest: AsyncIterator<string>,
  { as }: Shape,
  options: StreamOptions,
): ReadableStream<Uint8Array> {
  const bytes = new TextEncoder()
  const patience = new Patience(options.keepAliveMs, options.now)
  let unsent = first
  let next: Promise<IteratorResult<string>> | null = null
  let over = false
  const end = (how: StreamEnd) => {
    if (over) return
    over = true
    patience.stop()
    options.onEnd(how)
  }
  return new ReadableStream<Uint8Array>({
    async pull(controller) {
      try {
        while (unsent === '') {
          next ??= rest.next()
          const step = as === 'sse' ? await patience.wait(next) : await next
          if (step === null) {
            unsent = KEEP_ALIVE
            break
          }
          next = null
          if (step.done === true) {
            if (as === 'sse') controller.enqueue(bytes.encode(DONE))
            controller.close()
            return end('whole')
          }
          unsent = step.value
        }
        controller.enqueue(bytes.encode(unsent))
        unsent = ''
      } catch (error) {
        if (over) return
        options.onError(error)
        const problem = problemOf(error)
        breakOff(controller, bytes, as, problem)
        end(problem)
      }
    },
    cancel() {
      end('left')
    },
  })
}

/** Tells, on a stream of its own, how another stream has ended. */
export class Ending {
  readonly stream: ReadableStream<Uint8Array>
  #tell: ((end: StreamEnd) => void) | null = null

  constructor() {
    this.stream = new ReadableStream({
      start: (controller) => {
        this.#tell = (end) => {
          controller.enqueue(new TextEncoder().encode(JSON.stringify(end)))
          controller.close()
        }
      },
      cancel: () => {
        this.#tell = null
      },
    })
  }

  tell(end: StreamEnd): void {
    this.#tell?.(end)
    this.#tell = null
  }
}

/** What an ending tells; null where it was cut before it could. */
async function told(ending: ReadableStream<Uint8Array>): Promise<StreamEnd | null> {
  try {
    return JSON.parse(await new Response(ending).text()) as StreamEnd
  } catch {
    return null
  }
}

/** Another's stream, and how it ends. */
export interface Relayed {
  readonly body: ReadableStream<Uint8Array>
  readonly ending: ReadableStream<Uint8Array>
}

/** What is written at one end comes out at the other, in the platform's own hands. */
export type Pipe = Pick<TransformStream<Uint8Array, Uint8Array>, 'readable' | 'writable'>

/**
 * Another's stream passed on, so that its breaking is told in band and its end is noticed. The bytes
 * are never looked at: that would cost more than all the rest of a stream.
 *
 * @param broken the problem of a stream that breaks
 * @param left aborts when the reader has gone, which a stream notices only when it is written to
 */
export function relay(
  relayed: Relayed,
  { readable, writable }: Pipe,
  { as }: Shape,
  broken: Problem,
  left: AbortSignal,
  onEnd: (end: StreamEnd) => void,
): ReadableStream<Uint8Array> {
  let over = false
  const end = (how: StreamEnd) => {
    if (over) return
    over = true
    left.removeEventListener('abort', leave)
    onEnd(how)
  }
  // At once: nothing that is waited for need come when the reader has gone.
  const leave = () => end('left')
  left.addEventListener('abort', leave, { once: true })
  if (left.aborted) leave()
  passOn(relayed, writable, as, broken, left, end)
  return readable
}

/** Never rejects. Its end is told before the stream is closed: after that nothing here need run. */
async function passOn(
  { body, ending }: Relayed,
  writable: WritableStream<Uint8Array>,
  as: Shape['as'],
  broken: Problem,
  signal: AbortSignal,
  end: (how: StreamEnd) => void,
): Promise<void> {
  const ended = told(ending)
  const whole = await body
    .pipeTo(writable, { preventClose: true, preventAbort: true, signal })
    .then(() => true)
    .catch(() => false)
  const writer = writable.getWriter()
  try {
    const isLeft = signal.aborted || writer.desiredSize === null
    const how = isLeft ? 'left' : whole ? await ended : null
    if (how === null && as === 'sse') {
      // The comment ends what the cut may have left half.
      const text = KEEP_ALIVE + errorEvent(problemBody(broken))
      await writer.write(new TextEncoder().encode(text))
    }
    end(how ?? broken)
    if (isLeft || (how === null && as !== 'sse')) {
      await writer.abort(new Error('the answer broke off'))
    } else {
      await writer.close()
    }
  } catch {
    end('left')
  }
}

function breakOff(
  controller: ReadableStreamDefaultController<Uint8Array>,
  bytes: TextEncoder,
  as: Shape['as'],
  problem: Problem,
): void {
  if (as === 'sse') {
    controller.enqueue(bytes.encode(errorEvent(problemBody(problem))))
    controller.close()
  } else {
    controller.error(new Error('the answer broke off'))
  }
}

/** Waits for one thing after another with one timer, which sleeps again if it wakes too early. */
class Patience {
  readonly #ms: number
  readonly #now: () => number
  #timer: ReturnType<typeof setTimeout> | null = null
  #dueAt = 0
  #late: (() => void) | null = null

  constructor(ms: number, now: () => number) {
    this.#ms = ms
    this.#now = now
  }

  /** What `work` brings, or null after so long. */
  async wait<T>(work: Promise<T>): Promise<T | null> {
    const late = new Promise<null>((resolve) => {
      this.#late = () => resolve(null)
    })
    this.#dueAt = this.#now() + this.#ms
    if (this.#timer === null) this.#sleep(this.#ms)
    try {
      return await Promise.race([work, late])
    } finally {
      this.#late = null
    }
  }

  stop(): void {
    if (this.#timer !== null) clearTimeout(this.#timer)
  }

  #sleep(ms: number): void {
    this.#timer = setTimeout(() => {
      this.#timer = null
      const left = this.#dueAt - this.#now()
      if (left > 0 && this.#late !== null) this.#sleep(left)
      else this.#late?.()
    }, ms)
  }
}
