// A reader of a flight gets the answer as a stream of bytes, while the flight runs or after it.
import type { FoldedAnswer } from '../completion/delta.ts'
import {
  bodyName,
  DONE,
  type Encode,
  encoder,
  errorEvent,
  KEEP_ALIVE,
  PIECE_CHARS,
  type Reader,
  type Shape,
  textsOf,
} from '../completion/encode.ts'
import { type Problem, problemOf } from '../errors.ts'
import { problemBody } from '../http/problem.ts'
import type { Flight, FlightReader } from './flight.ts'

/** How a stream ended: completely, because its reader left, or with a problem. */
export type StreamEnd = 'whole' | 'left' | Problem

/** An identity transform of the platform. */
export type Pipe = Pick<TransformStream<Uint8Array, Uint8Array>, 'readable' | 'writable'>

/** The reason of an aborted stream; the runtime logs it. */
export const INCOMPLETE = 'the answer broke off'

const utf8 = new TextEncoder()

/** Some deltas of a recording as bytes. */
interface Span {
  readonly at: number
  /** The position after them. */
  readonly end: number
  readonly bytes: Uint8Array
  /** It ends with the terminator. */
  readonly isLast: boolean
}

/** Encodes the spans of a recording in one shape. */
class Encoding {
  readonly #flight: Flight
  readonly #encode: Encode
  readonly #terminator: string
  /** The last span: readers who are at the same place share it. */
  #made: Span | null = null

  constructor(flight: Flight, encode: Encode, terminator: string) {
    this.#flight = flight
    this.#encode = encode
    this.#terminator = terminator
  }

  /** The deltas from here on, about `PIECE_CHARS` at most; with the terminator after the last one. */
  span(at: number): Span {
    const { recording, state } = this.#flight
    if (this.#made?.at === at) return this.#made
    let text = ''
    let end = at
    for (; end < recording.length && text.length < PIECE_CHARS; end++) {
      const delta = recording[end]
      if (delta !== undefined) text += this.#encode(delta)
    }
    const isLast = state === 'finished' && end === recording.length
    const bytes = utf8.encode(isLast ? text + this.#terminator : text)
    const span = { at, end, bytes, isLast }
    this.#made = span
    return span
  }
}

/** The encodings of a flight, one for each shape. */
export class Encodings {
  readonly #flight: Flight
  readonly #shared = new Map<string, Encoding>()

  constructor(flight: Flight) {
    this.#flight = flight
  }

  of({ shape, resume }: Reader): Encoding {
    const known = resume === null ? this.#shared.get(bodyName(shape)) : undefined
    if (known !== undefined) return known
    const terminator = shape.as === 'sse' ? DONE : ''
    const encoding = new Encoding(this.#flight, encoder(shape, resume), terminator)
    if (resume === null) this.#shared.set(bodyName(shape), encoding)
    return encoding
  }
}

export interface StreamOptions {
  readonly flight: Flight
  readonly encoding: Encoding
  readonly shape: Shape
  readonly pipe: Pipe
  /**
   * Whether another isolate passes the stream on. After a problem it is then only aborted: that
   * isolate learns which problem it was, and sends it to the visitor.
   */
  readonly isRemote: boolean
  /** Called with the error of a failed load, for the log. */
  readonly onError: (error: unknown) => void
}

/** Writes to its stream all that is new as soon as the last write is done. */
export class StreamReader implements FlightReader {
  readonly body: ReadableStream<Uint8Array>
  /**
   * Resolves when there is something to read, or the reader has left. Rejects with the error of a
   * load that failed before.
   */
  readonly begun: Promise<void>
  readonly ended: Promise<StreamEnd>
  readonly #options: StreamOptions
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>
  readonly #begun = Promise.withResolvers<void>()
  readonly #ended = Promise.withResolvers<StreamEnd>()
  #at = 0
  #hasLast = false
  #isWriting = false
  #isOver = false

  constructor(options: StreamOptions) {
    this.#options = options
    this.body = options.pipe.readable
    this.begun = this.#begun.promise
    this.ended = this.#ended.promise
    this.#writer = options.pipe.writable.getWriter()
    this.#writer.closed.catch(() => this.leave())
    options.flight.add(this)
    this.advance()
  }

  /** The reader has disconnected. */
  leave(): void {
    if (!this.#end('left')) return
    this.#begun.resolve()
    this.#writer.abort(new Error(INCOMPLETE)).catch(() => {})
  }

  advance(): void {
    const { flight, encoding } = this.#options
    while (!this.#isWriting && !this.#isOver) {
      const isFinished = flight.state === 'finished'
      if (this.#at < flight.recording.length || (isFinished && !this.#hasLast)) {
        const { bytes, end, isLast } = encoding.span(this.#at)
        this.#at = end
        this.#hasLast = isLast
        this.#begun.resolve()
        if (bytes.length > 0) this.#write(bytes)
      } else if (isFinished) this.#finish()
      else if (flight.state === 'failed') this.#fail(flight.error)
      else return
    }
  }

  keepAlive(): void {
    if (this.#options.shape.as === 'sse' && this.#at > 0 && !this.#isWriting && !this.#isOver) {
      this.#write(utf8.encode(KEEP_ALIVE))
    }
  }

  /** One write at a time: a slow reader costs no more memory than that. */
  #write(bytes: Uint8Array): void {
    this.#isWriting = true
    this.#writer.write(bytes).then(
      () => {
        this.#isWriting = false
        this.advance()
      },
      () => this.leave(),
    )
  }

  #finish(): void {
    // First report the end, then close: after that, the request may be cancelled.
    if (this.#end('whole')) this.#writer.close().catch(() => {})
  }

  #fail(error: unknown): void {
    const problem = problemOf(error)
    if (this.#at === 0) {
      if (this.#end(problem)) this.#begun.reject(error)
      return
    }
    this.#options.onError(error)
    this.#isWriting = true
    this.#sendProblem(problem).catch(() => this.leave())
  }

  async #sendProblem(problem: Problem): Promise<void> {
    const { shape, isRemote } = this.#options
    const isTold = shape.as === 'sse' && !isRemote
    if (isTold) await this.#writer.write(utf8.encode(errorEvent(shape.api, problemBody(problem))))
    this.#end(problem)
    if (isTold) await this.#writer.close()
    else await this.#writer.abort(new Error(INCOMPLETE))
  }

  /** @returns false if it has ended before */
  #end(end: StreamEnd): boolean {
    if (this.#isOver) return false
    this.#isOver = true
    this.#options.flight.remove(this)
    this.#ended.resolve(end)
    return true
  }
}

/** Resolves when the load is over, or the reader has left. */
export function untilOver(flight: Flight, left: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const reader: FlightReader = {
      advance() {
        if (flight.state !== 'running') leave()
      },
    }
    const leave = () => {
      left.removeEventListener('abort', leave)
      flight.remove(reader)
      resolve()
    }
    left.addEventListener('abort', leave, { once: true })
    flight.add(reader)
    if (left.aborted) leave()
    else reader.advance()
  })
}

/** Like `encodeWhole`, but encoded as the reader consumes it, for bodies not worth caching. */
export function streamWhole(folded: FoldedAnswer, reader: Reader): ReadableStream<Uint8Array> {
  const texts = textsOf(folded, reader)
  return new ReadableStream<Uint8Array>(
    {
      pull(controller) {
        const { done, value } = texts.next()
        if (done === true) controller.close()
        else controller.enqueue(utf8.encode(value))
      },
    },
    { highWaterMark: 0 },
  )
}
