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
export function encodeWhole(folded: Folded, { shape, resume }: Reader): string {
  if (shape.as === 'json') return toJson(folded.completion)
  const encode = encoder(shape, resume)
  const body = replay(folded).map(encode).join('')
  return shape.as === 'sse' ? body + DONE : body
}

/** The encoded form of a flight, made once for all readers of the same shape. */
export class Encodings {
  readonly #flight: Flight
  readonly #made = new Map<string, { readonly encode: Encode; readonly texts: string[] }>()

  constructor(flight: Flight) {
    this.#flight = flight
  }

  /** The reader's text as the flight goes on, as much at a time as has come. */
  async *read({ shape, resume }: Reader, left: AbortSignal): AsyncGenerator<string> {
    const shared = resume === null ? this.#sharedBy(shape) : fresh(shape, resume)
    let position = 0
    for await (const end of this.#flight.progress(left)) {
      const { encode, texts } = shared
      for (let i = texts.length; i < end; i++) {
        const delta = this.#flight.recording[i]
        texts.push(delta === undefined ? '' : encode(delta))
      }
      yield texts.slice(position, end).join('')
      position = end
    }
    // Cut short by leaving: that must not look like the answer's end.
    left.throwIfAborted()
  }

  #sharedBy(shape: Shape) {
    const name = bodyName(shape)
    const made = this.#made.get(name) ?? fresh(shape, null)
    this.#made.set(name, made)
    return made
  }
}

type Encode = (delta: Delta) => string

function fresh(shape: Shape, resume: ResumePoint | null) {
  return { encode: encoder(shape, resume), texts: [] as string[] }
}

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
