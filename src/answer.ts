// Deltas as one reader's body: JSON, an event stream or bare text. The same for a fresh answer, a
// remembered one and, later, a joined one. Knows no headers.
import { type Delta, Fold, type Folded, replay } from './completion/delta.ts'
import { type Problem, problemOf } from './errors.ts'
import { problemBody } from './http/problem.ts'
import { ChunkEncoder, DONE, errorEvent, KEEP_ALIVE } from './sse/serialize.ts'

/** The form a reader wants. */
export interface Shape {
  readonly as: 'json' | 'sse' | 'text'
  /** False: the body is sent when it is whole. */
  readonly stream: boolean
  readonly includeUsage: boolean
}

/** Deltas as they come, batched as they arrived. */
export type Deltas = AsyncIterator<readonly Delta[]>

export interface StreamOptions {
  /** Silence after which a comment is sent. */
  readonly keepAliveMs: number
  /** The stream is over: it ended, it failed, or its reader left (then it is null and `left`). */
  readonly onEnd: (problem: Problem | null, left: boolean) => void
  /** The error behind a failed stream, for the log. */
  readonly onError: (error: unknown) => void
}

/** A whole answer in a reader's shape. */
export function encodeWhole(folded: Folded, shape: Shape): string {
  const { completion } = folded
  if (shape.as === 'json') return JSON.stringify(completion)
  if (shape.as === 'text') return completion.choices[0]?.text ?? ''
  const encode = encoder(shape)
  return replay(folded).map(encode).join('') + DONE
}

/** Reads an answer to its end. @throws GatewayError whatever ends it early. */
export async function collect(deltas: Deltas): Promise<Folded> {
  const fold = new Fold()
  for (let step = await deltas.next(); step.done !== true; step = await deltas.next()) {
    for (const delta of step.value) fold.add(delta)
  }
  const folded = fold.folded()
  if (folded === null) throw new TypeError('an answer ended without its end')
  return folded
}

/**
 * An answer as a stream, from its first batch on: so the caller still can send a real status when
 * there is none. A failure after that is an event in band; bare text can only break off.
 */
export function streamAnswer(
  first: readonly Delta[],
  rest: Deltas,
  shape: Shape,
  options: StreamOptions,
): ReadableStream<Uint8Array> {
  const bytes = new TextEncoder()
  const encode = encoder(shape)
  const encodeBatch = (batch: readonly Delta[]) => {
    let text = ''
    for (const delta of batch) text += encode(delta)
    return text
  }
  let unsent = encodeBatch(first)
  let next: Promise<IteratorResult<readonly Delta[]>> | null = null
  let over = false
  const end = (problem: Problem | null, left: boolean) => {
    if (over) return
    over = true
    options.onEnd(problem, left)
  }
  return new ReadableStream<Uint8Array>({
    async pull(controller) {
      try {
        while (unsent === '') {
          next ??= rest.next()
          const step = shape.as === 'sse' ? await within(next, options.keepAliveMs) : await next
          if (step === null) {
            unsent = KEEP_ALIVE
            break
          }
          next = null
          if (step.done === true) {
            if (shape.as === 'sse') controller.enqueue(bytes.encode(DONE))
            controller.close()
            end(null, false)
            return
          }
          unsent = encodeBatch(step.value)
        }
        controller.enqueue(bytes.encode(unsent))
        unsent = ''
      } catch (error) {
        if (over) return
        options.onError(error)
        const problem = problemOf(error)
        if (shape.as === 'sse') {
          controller.enqueue(bytes.encode(errorEvent(problemBody(problem))))
          controller.close()
        } else {
          controller.error(new Error('the answer broke off'))
        }
        end(problem, false)
      }
    },
    cancel() {
      end(null, true)
    },
  })
}

function encoder(shape: Shape): (delta: Delta) => string {
  if (shape.as === 'text') {
    return (delta) => (delta.kind === 'text' && delta.index === 0 ? delta.text : '')
  }
  const chunks = new ChunkEncoder({ includeUsage: shape.includeUsage })
  return (delta) => chunks.encode(delta)
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
    clearTimeout(timer)
  }
}
