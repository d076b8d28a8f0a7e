// The demo upstream: serves the completions wire from the built-in model, so that the Worker runs
// without an account at any provider. It behaves like any other upstream, without keys.

import type { Wait } from '../deadline.ts'
import { upstreamFailure } from '../upstream/failure.ts'
import { createModel, type Model, tokenize } from './model.ts'
import { type Body, Refusal, readBody } from './request.ts'
import { generate, type Piece, type Step, score, seededRandom } from './sampling.ts'

export interface DemoOptions {
  /** Reads the training text (demo-text.txt). Called until it has resolved once. */
  readonly readText: () => Promise<string>
  /** Resolves after that many milliseconds; may reject when the signal aborts. */
  readonly wait: Wait
  /** Milliseconds since 1970, for `created`. */
  readonly now: () => number
  /** In [0, 1). For ids, and for sampling if the request has no seed. */
  readonly random: () => number
}

/** The pace of each choice in a stream; other answers are not paced. */
const TOKENS_PER_SECOND = 80

/**
 * A handler for `POST …/completions`. The model is trained on the first request; the handler
 * rejects with a GatewayError `upstream_unavailable` if the training text cannot be read.
 */
export function createDemo(options: DemoOptions): (request: Request) => Promise<Response> {
  let model: Model | undefined
  return async (request) => {
    try {
      const body = await readBody(request)
      if (model === undefined) {
        const text = await options.readText().catch(() => {
          throw upstreamFailure('unavailable', { code: 'no_demo_text' })
        })
        // A concurrent request may have trained the model meanwhile.
        model ??= createModel(text)
      }
      const answer = createAnswer(model, body, options)
      if (body.stream) return streamed(answer, body, options, request.signal)
      return Response.json(complete(answer, body.n))
    } catch (error) {
      if (error instanceof Refusal) return refused(error)
      throw error
    }
  }
}

function refused({ status, message, param }: Refusal): Response {
  const error = { message, type: 'invalid_request_error', param, code: null }
  const headers: Record<string, string> = status === 405 ? { allow: 'POST' } : {}
  return Response.json({ error }, { status, headers })
}

type Answer = ReturnType<typeof createAnswer>

/** A token of the answer, or of the prompt, of which log probabilities may be unknown. */
interface Written {
  readonly token: string
  readonly logprob: number | null
  readonly top: Piece['top'] | null
}

/** The tokens of the prompt with `echo`, else none. */
function echoOf(model: Model, { echo, logprobs }: Body, tokens: readonly string[]): Written[] {
  if (!echo) return []
  const scored = typeof logprobs === 'number' ? score(model, tokens, logprobs) : []
  return tokens.map((token, i) => scored[i] ?? { token, logprob: null, top: null })
}

/** Turns tokens into a wire choice, and counts their text offsets. */
function createWriter({ echo, logprobs }: Body, prompt: string, index: number) {
  let offset = echo ? 0 : prompt.length
  const offsetOf = ({ token }: Written) => {
    offset += token.length
    return offset - token.length
  }
  return (written: readonly Written[], finish: Step['finish']) => {
    const tokens = written.map(({ token }) => token)
    const listed = {
      tokens,
      token_logprobs: written.map(({ logprob }) => logprob),
      top_logprobs: written.map(({ top }) => top),
      text_offset: written.map(offsetOf),
    }
    return {
      index,
      text: tokens.join(''),
      logprobs: typeof logprobs === 'number' ? listed : null,
      finish_reason: finish,
    }
  }
}

function createAnswer(model: Model, body: Body, { now, random }: DemoOptions) {
  const prompts = [body.prompt].flat().map((text) => ({ text, tokens: tokenize(text) }))
  const promptTokens = prompts.reduce((sum, { tokens }) => sum + tokens.length, 0)
  let sampled = 0

  /**
   * One candidate. Its random numbers depend on its place among the candidates of its prompt, not
   * on the prompt's place, so that a prompt with a seed has the same text alone and in a list.
   */
  function* candidate(prompt: readonly string[], place: number) {
    const seeded = typeof body.seed === 'number' ? seededRandom(body.seed, place) : random
    for (const step of generate(model, prompt, { ...body, random: seeded })) {
      sampled += step.sampled
      yield step
    }
  }

  const digits = Array.from({ length: 24 }, () => Math.floor(random() * 36).toString(36))
  return {
    head: {
      id: `cmpl-${digits.join('')}`,
      object: 'text_completion',
      created: Math.floor(now() / 1000),
      model: body.model,
    },
    /** The usage so far. */
    usage: () => ({
      prompt_tokens: promptTokens,
      completion_tokens: sampled,
      total_tokens: promptTokens + sampled,
    }),
    /** The candidates of each prompt. Their generators have not started. */
    candidates: prompts.map(({ text, tokens }, p) => {
      const echo = echoOf(model, body, tokens)
      return Array.from({ length: body.best_of ?? body.n }, (_, place) => ({
        echo,
        steps: candidate(tokens, place),
        writer: (rank: number) => createWriter(body, text, p * body.n + rank),
      }))
    }),
  }
}

function complete(answer: Answer, n: number): unknown {
  const choices = answer.candidates.flatMap((candidates) => {
    const finished = candidates.map((each) => ({ ...each, steps: [...each.steps] }))
    return bestFirst(finished, n).map(({ echo, steps, writer }, rank) => {
      const pieces = steps.flatMap((step) => step.pieces)
      return writer(rank)([...echo, ...pieces], steps.at(-1)?.finish ?? null)
    })
  })
  return { ...answer.head, choices, usage: answer.usage() }
}

/** The n best candidates. If all of them are returned, their order is unchanged. */
function bestFirst<C extends { steps: readonly Step[] }>(candidates: C[], n: number): C[] {
  if (candidates.length <= n) return candidates
  // By log probability per token, as OpenAI's `best_of`: a sum would favour short answers.
  const mean = ({ steps }: C): number => {
    const sampled = steps.reduce((sum, step) => sum + step.sampled, 0)
    return steps.reduce((sum, { logprob }) => sum + logprob, 0) / Math.max(1, sampled)
  }
  return candidates.toSorted((a, b) => mean(b) - mean(a)).slice(0, n)
}

/** One chunk per token and choice. At each tick all choices advance by one token. */
async function* chunks(answer: Answer, body: Body, options: DemoOptions, signal: AbortSignal) {
  const withUsage = body.stream_options.include_usage
  const chunk = (choice: object) => ({
    ...answer.head,
    choices: [choice],
    ...(withUsage ? { usage: null } : {}),
  })
  let running = answer.candidates.flatMap((candidates) =>
    candidates.map(({ echo, steps, writer }, rank) => ({ echo, steps, write: writer(rank) })),
  )
  if (body.echo) for (const { echo, write } of running) yield chunk(write(echo, null))
  while (running.length > 0) {
    signal.throwIfAborted()
    await options.wait(1000 / TOKENS_PER_SECOND, signal)
    const still: typeof running = []
    for (const run of running) {
      signal.throwIfAborted()
      const { value: step } = run.steps.next()
      if (!step) continue
      // As OpenAI does: "length" comes with the last text, "stop" in a chunk of its own.
      const ends = step.finish === 'stop'
      if (step.pieces.length > 0) yield chunk(run.write(step.pieces, ends ? null : step.finish))
      if (ends || (step.finish && step.pieces.length === 0)) yield chunk(run.write([], step.finish))
      if (step.finish === null) still.push(run)
    }
    running = still
  }
  if (withUsage) yield { ...answer.head, choices: [], usage: answer.usage() }
}

function streamed(answer: Answer, body: Body, options: DemoOptions, signal: AbortSignal): Response {
  const left = new AbortController()
  const run = chunks(answer, body, options, AbortSignal.any([signal, left.signal]))
  const encoder = new TextEncoder()
  const stream = new ReadableStream<Uint8Array>({
    // Generates on demand only, so a reader that is slow or has left costs no CPU time. An abort
    // rejects here, which errors the stream.
    async pull(controller) {
      const { value, done } = await run.next()
      controller.enqueue(encoder.encode(`data: ${done ? '[DONE]' : JSON.stringify(value)}\n\n`))
      if (done) controller.close()
    },
    cancel(reason) {
      left.abort(reason)
    },
  })
  return new Response(stream, {
    headers: { 'content-type': 'text/event-stream; charset=utf-8', 'cache-control': 'no-cache' },
  })
}
