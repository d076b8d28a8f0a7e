// The bytes of a response body: a flight's deltas as they arrive, or a complete answer; keep-alive
// comments, and how a stream ends, even across a Durable Object's RPC.

import type { FoldedAnswer } from '../completion/delta.ts'
import {
  bodyName,
  DONE,
  type Encode,
  encoder,
  errorEvent,
  KEEP_ALIVE,
  PIECE_CHARS,
  piecesOf,
  type Reader,
  type Shape,
  textsOf,
} from '../completion/encode.ts'
import { type Problem, problemOf } from '../errors.ts'
import { problemBody } from '../http/problem.ts'
import type { Flight } from './flight.ts'

/**
 * Like `encodeWhole`, but encoded lazily as the reader consumes it, for bodies not worth caching.
 */
export function streamWhole(folded: FoldedAnswer, reader: Reader): ReadableStream<Uint8Array> {
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

/** The encodings of a flight: each is produced once for all readers of the same shape. */
export class Encodings {
  readonly #flight: Flight
  readonly #encodings = new Map<string, { readonly encode: Encode; readonly texts: string[] }>()

  constructor(flight: Flight) {
    this.#flight = flight
  }

  /** The reader's text while the flight runs, in pieces of at most `PIECE_CHARS`. */
  async *read({ shape, resume }: Reader, left: AbortSignal): AsyncGenerator<string> {
    const textAt = resume === null ? this.#shared(shape) : this.#own(encoder(shape, resume))
    let position = 0
    for await (const end of this.#flight.progress(left)) {
      let piece = ''
      for (; position < end; position++) {
        const text = textAt(position)
        // Yield instead of concatenating, which would copy a long text for each reader.
        if (piece !== '' && piece.length + text.length > PIECE_CHARS) {
          yield piece
          piece = ''
        }
        if (text.length <= PIECE_CHARS) piece += text
        else yield* piecesOf(text)
      }
      yield piece
    }
    // If the reader has left, this must not look like the end of the answer.
    left.throwIfAborted()
  }

  #shared(shape: Shape): (position: number) => string {
    const name = bodyName(shape)
    const encoding = this.#encodings.get(name) ?? { encode: encoder(shape, null), texts: [] }
    this.#encodings.set(name, encoding)
    const { texts } = encoding
    const encode = this.#own(encoding.encode)
    return (position) => {
      for (let i = texts.length; i <= position; i++) texts.push(encode(i))
      return texts[position] ?? ''
    }
  }

  /** An encoding for a single reader, not cached. Positions must be requested in order. */
  #own(encode: Encode): (position: number) => string {
    return (position) => {
      const delta = this.#flight.recording[position]
      return delta === undefined ? '' : encode(delta)
    }
  }
}

/** How a stream ended: completely, because its reader left, or with a problem. */
export type StreamEnd = 'whole' | 'left' | Problem

/** Silence after which a keep-alive comment is sent. */
const KEEP_ALIVE_MS = 15_000

export interface StreamOptions {
  readonly keepAliveMs?: number
  readonly now: () => number
  readonly onEnd: (end: StreamEnd) => void
  /** Called with the error of a failed stream, for the log. */
  readonly onError: (error: unknown) => void
}

/**
 * Encoded text as a stream of bytes. The caller awaits `first` before it chooses the status. A
 * later failure becomes an error event in the stream; a stream of bare text can only be aborted.
 */
export function streamAnswer(
  first: string,
  rest: AsyncIterator<string>,
  { as }: Shape,
  options: StreamOptions,
): ReadableStream<Uint8Array> {
  const bytes = new TextEncoder()
  const silence = new SilenceTimer(options.keepAliveMs ?? KEEP_ALIVE_MS, options.now)
  let unsent = first
  let next: Promise<IteratorResult<string>> | null = null
  let over = false
  const end = (how: StreamEnd) => {
    if (over) return
    over = true
    silence.stop()
    options.onEnd(how)
  }
  return new ReadableStream<Uint8Array>({
    async pull(controller) {
      try {
        while (unsent === '') {
          next ??= rest.next()
          const step = as === 'sse' ? await silence.wait(next) : await next
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
        sendFailure(controller, bytes, as, problem)
        end(problem)
      }
    },
    cancel() {
      end('left')
    },
  })
}

/** Transmits how a stream has ended, over a second stream, across a Durable Object's RPC. */
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

/** Reads how a stream has ended; null if the connection was lost before that. */
async function readEnding(ending: ReadableStream<Uint8Array>): Promise<StreamEnd | null> {
  try {
    return JSON.parse(await new Response(ending).text()) as StreamEnd
  } catch {
    return null
  }
}

/** A stream from a Durable Object, and the stream that reports how it ends. */
export interface RelayedStream {
  readonly body: ReadableStream<Uint8Array>
  readonly ending: ReadableStream<Uint8Array>
}

/** An identity transform, which the platform runs without our code. */
export type Pipe = Pick<TransformStream<Uint8Array, Uint8Array>, 'readable' | 'writable'>

/**
 * Passes a stream on, appending an error event if the connection breaks, and reports how it ends.
 * The bytes pass through the platform's pipe, since handling them here would dominate the CPU time.
 *
 * @param broken the problem to send if the connection breaks
 * @param left aborts when the reader disconnects, which a stream notices only on the next write
 */
export function relay(
  relayed: RelayedStream,
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
  // Report the disconnect now: a pending read may never settle.
  const leave = () => end('left')
  left.addEventListener('abort', leave, { once: true })
  if (left.aborted) leave()
  pipe(relayed, writable, as, broken, left, end)
  return readable
}

/**
 * Never rejects. Reports the end before it closes the stream, after which this may be cancelled.
 */
async function pipe(
  { body, ending }: RelayedStream,
  writable: WritableStream<Uint8Array>,
  as: Shape['as'],
  broken: Problem,
  signal: AbortSignal,
  end: (how: StreamEnd) => void,
): Promise<void> {
  const ended = readEnding(ending)
  const whole = await body
    .pipeTo(writable, { preventClose: true, preventAbort: true, signal })
    .then(() => true)
    .catch(() => false)
  const writer = writable.getWriter()
  try {
    const isLeft = signal.aborted || writer.desiredSize === null
    const how = isLeft ? 'left' : whole ? await ended : null
    if (how === null && as === 'sse') {
      // The comment terminates an event that may have been cut in half.
      const text = KEEP_ALIVE + errorEvent(problemBody(broken))
      await writer.write(new TextEncoder().encode(text))
    }
    end(how ?? broken)
    if (isLeft || (how === null && as !== 'sse')) {
      await writer.abort(new Error(INCOMPLETE))
    } else {
      await writer.close()
    }
  } catch {
    end('left')
  }
}

/** The reason of an aborted stream; the runtime logs it. */
const INCOMPLETE = 'the answer broke off'

function sendFailure(
  controller: ReadableStreamDefaultController<Uint8Array>,
  bytes: TextEncoder,
  as: Shape['as'],
  problem: Problem,
): void {
  if (as === 'sse') {
    controller.enqueue(bytes.encode(errorEvent(problemBody(problem))))
    controller.close()
  } else {
    controller.error(new Error(INCOMPLETE))
  }
}

/** Limits successive waits with a single timer, rescheduled when it fires too early. */
class SilenceTimer {
  readonly #ms: number
  readonly #now: () => number
  #timer: ReturnType<typeof setTimeout> | null = null
  #dueAt = 0
  #late: (() => void) | null = null

  constructor(ms: number, now: () => number) {
    this.#ms = ms
    this.#now = now
  }

  /** The result of `work`, or null if it takes longer than `ms`. */
  async wait<T>(work: Promise<T>): Promise<T | null> {
    const late = new Promise<null>((resolve) => {
      this.#late = () => resolve(null)
    })
    this.#dueAt = this.#now() + this.#ms
    if (this.#timer === null) this.#schedule(this.#ms)
    try {
      return await Promise.race([work, late])
    } finally {
      this.#late = null
    }
  }

  stop(): void {
    if (this.#timer !== null) clearTimeout(this.#timer)
  }

  #schedule(ms: number): void {
    this.#timer = setTimeout(() => {
      this.#timer = null
      const left = this.#dueAt - this.#now()
      if (left > 0 && this.#late !== null) this.#schedule(left)
      else this.#late?.()
    }, ms)
  }
}
