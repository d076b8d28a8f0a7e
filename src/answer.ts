// A flight's deltas as one reader's body: JSON, an event stream or bare text; from the start, from
// where the reader had stopped, live or whole. Knows no headers and no cache.
import type { Flight } from './cache/flight.ts'
import { type Delta, type Folded, replay } from './completion/delta.ts'
import { type ResumePoint, skipper } from './completion/resume.ts'
import { type Code, codes, type Problem, problemOf } from './errors.ts'
import { problemBody } from './http/problem.ts'
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
  if (shape.as === 'json') return JSON.stringify(folded.completion)
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
  let unsent = first
  let next: Promise<IteratorResult<string>> | null = null
  let over = false
  const end = (how: StreamEnd) => {
    if (over) return
    over = true
    options.onEnd(how)
  }
  return new ReadableStream<Uint8Array>({
    async pull(controller) {
      try {
        while (unsent === '') {
          next ??= rest.next()
          const step = as === 'sse' ? await within(next, options.keepAliveMs) : await next
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

/**
 * Another's stream passed on, so that its breaking is told in band and its end is noticed.
 *
 * @param broken the problem of a stream that breaks
 * @param left aborts when the reader has gone, which a stream notices only when it is written to
 */
export function relay(
  body: ReadableStream<Uint8Array>,
  { as }: Shape,
  broken: Problem,
  left: AbortSignal,
  onEnd: (end: StreamEnd) => void,
): ReadableStream<Uint8Array> {
  const reader = body.getReader()
  const tail = new Tail()
  const leave = () => {
    onEnd('left')
    reader.cancel().catch(() => {})
  }
  const end = (how: StreamEnd) => {
    left.removeEventListener('abort', leave)
    onEnd(how)
  }
  left.addEventListener('abort', leave, { once: true })
  if (left.aborted) leave()
  return new ReadableStream<Uint8Array>({
    async pull(controller) {
      let step: ReadableStreamReadResult<Uint8Array>
      try {
        step = await reader.read()
      } catch {
        breakOff(controller, new TextEncoder(), tail.isTorn ? 'text' : as, broken)
        return end(broken)
      }
      // Cancelled above; there is nobody to tell.
      if (left.aborted) return controller.error(left.reason)
      if (!step.done) {
        tail.add(step.value)
        return controller.enqueue(step.value)
      }
      const code = as === 'sse' ? tail.failure : null
      if (code === 'unsaid') {
        // Cut short without a word, wherever that happened: the reader must hear of it.
        breakOff(controller, new TextEncoder(), tail.isTorn ? 'text' : as, broken)
        return end(broken)
      }
      controller.close()
      end(code === null ? 'whole' : { ...broken, code })
    },
    cancel() {
      left.removeEventListener('abort', leave)
      leave()
    },
  })
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

/** Longer than the end of any error event, from its code on. */
const TAIL_BYTES = 64

/** The last bytes of an event stream, however it comes in pieces. */
class Tail {
  #bytes: Uint8Array = new Uint8Array()

  add(piece: Uint8Array): void {
    const kept = this.#bytes.subarray(Math.max(0, this.#bytes.length + piece.length - TAIL_BYTES))
    const added = piece.slice(-TAIL_BYTES)
    const bytes = new Uint8Array(kept.length + added.length)
    bytes.set(kept)
    bytes.set(added, kept.length)
    this.#bytes = bytes
  }

  /** After half an event another one would not be read as one. */
  get isTorn(): boolean {
    return this.#bytes.length > 0 && !this.#text.endsWith('\n\n')
  }

  /** The code of the error event it ended with; null where it ended as it should. */
  get failure(): Code | 'unsaid' | null {
    const text = this.#text
    if (text.endsWith(DONE)) return null
    const [, code] = /"code":"([a-z_]+)"\}\}\n\n$/.exec(text) ?? []
    return codes.find((known) => known === code) ?? 'unsaid'
  }

  get #text(): string {
    return new TextDecoder().decode(this.#bytes)
  }
}

/** What `work` brings, or null after so long. */
async function within<T>(work: Promise<T>, ms: number): Promise<T | null> {
  let timer: ReturnType<typeof setTimeout> | null = null
  const late = new Promise<null>((resolve) => {
    timer = setTimeout(() => resolve(null), ms)
  })
  try {
    return await Promise.race([work, late])
  } finally {
    if (timer !== null) clearTimeout(timer)
  }
}
