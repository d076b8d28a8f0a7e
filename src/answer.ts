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
 */
export function relay(
  body: ReadableStream<Uint8Array>,
  { as }: Shape,
  broken: Problem,
  onEnd: (end: StreamEnd) => void,
): ReadableStream<Uint8Array> {
  const reader = body.getReader()
  let last: Uint8Array = new Uint8Array()
  return new ReadableStream<Uint8Array>({
    async pull(controller) {
      let step: ReadableStreamReadResult<Uint8Array>
      try {
        step = await reader.read()
      } catch {
        // After half an event another one would not be read as one.
        const torn = last.length > 0 && last.at(-1) !== LF
        breakOff(controller, new TextEncoder(), torn ? 'text' : as, broken)
        return onEnd(broken)
      }
      if (!step.done) {
        last = step.value
        return controller.enqueue(step.value)
      }
      controller.close()
      const code = as === 'sse' ? failureIn(last) : null
      onEnd(code === null ? 'whole' : { ...broken, code })
    },
    cancel() {
      onEnd('left')
      reader.cancel().catch(() => {})
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

const LF = 10

/** The code of the error event a stream ended with; null where it ended as it should. */
function failureIn(last: Uint8Array): Code | null {
  const text = new TextDecoder().decode(last)
  if (text.endsWith(DONE)) return null
  const [, code] = /"code":"([a-z_]+)"\}\}\n\n$/.exec(text) ?? []
  return codes.find((known) => known === code) ?? 'upstream_truncated'
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
