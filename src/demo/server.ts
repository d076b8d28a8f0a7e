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
  /**
   * The pace of each choice in a stream. Answers that are not streamed are not paced. Default 80.
   */
  readonly tokensPerSecond?: number
}

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
        const text = await read(options)
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

async function read({ readText }: DemoOptions): Promise<string> {
  try {
    return await readText()
  } catch {
    throw upstreamFailure('unavailable', { code: 'no_demo_text' })
  }
}

function refused({ status, message, param }: Refusal): Response {
  const error = { message, type: 'invalid_request_error', param, code: null }
  const headers: Record<string, string> = status === 405 ? { allow: 'POST' } : {}
  return Response.json({ error }, { status, headers })
}

interface Choice {
  readonly index: number
  readonly text: string
  readonly logprobs: Logprobs | null
  readonly finish_reason: Step['finish']
}

interface Logprobs {
  readonly tokens: readonly string[]
  readonly token_logprobs: readonly (number | null)[]
  readonly top_logprobs: readonly (Record<string, number> | null)[]
  readonly text_offset: readonly number[]
}

type Answer = ReturnType<typeof createAnswer>

/** Turns pieces into wire choices, and counts their text offsets. */
function createWriter(model: Model, body: Body, prompt: string, index: number) {
  const { echo, logprobs } = body
  let offset = echo ? 0 : prompt.length
  const choice = (
    tokens: readonly string[],
    pieces: readonly (Piece | null)[],
    finish: Step['finish'],
  ): Choice => ({
    index,
    text: tokens.join(''),
    logprobs:
      typeof logprobs !== 'number'
        ? null
        : {
            tokens,
            token_logprobs: pieces.map((piece) => piece?.logprob ?? null),
            top_logprobs: pieces.map((piece) => piece?.top ?? null),
            text_offset: tokens.map((token) => {
              offset += token.length
              return offset - token.length
            }),
          },
    finish_reason: finish,
  })
  return {
    /** The prompt, or an empty choice without `echo`. */
    echoed(): Choice {
      const tokens = echo ? tokenize(prompt) : []
      const scored = typeof logprobs === 'number' ? score(model, tokens, logprobs) : []
      return choice(tokens, scored, null)
    },
    written: (pieces: readonly Piece[], finish: Step['finish']): Choice =>
      choice(
        pieces.map(({ token }) => token),
        pieces,
        finish,
      ),
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
    const run = generate(model, prompt, {
      maxTokens: body.max_tokens,
      temperature: body.temperature,
      topP: body.top_p,
      stop: [body.stop].flat(),
      presencePenalty: body.presence_penalty,
      frequencyPenalty: body.frequency_penalty,
      logprobs: body.logprobs ?? undefined,
      random: typeof body.seed === 'number' ? seededRandom(body.seed, place) : random,
    })
    for (const step of run) {
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
    candidates: prompts.map(({ text, tokens }, p) =>
      Array.from({ length: body.best_of ?? body.n }, (_, place) => ({
        steps: candidate(tokens, place),
        writer: (rank: number) => createWriter(model, body, text, p * body.n + rank),
      })),
    ),
  }
}

function complete(answer: Answer, n: number): unknown {
  const choices = answer.candidates.flatMap((candidates) =>
    bestFirst(
      candidates.map(({ steps, writer }) => ({ steps: [...steps], writer })),
      n,
    ).map(({ steps, writer }, rank) => {
      const { echoed, written } = writer(rank)
      const pieces = steps.flatMap((step) => step.pieces)
      return joined(echoed(), written(pieces, steps.at(-1)?.finish ?? null))
    }),
  )
  return { ...answer.head, choices, usage: answer.usage() }
}

/** The n best candidates. If all of them are returned, their order is unchanged. */
function bestFirst<C extends { steps: readonly Step[] }>(candidates: C[], n: number): C[] {
  if (candidates.length <= n) return candidates
  // By log probability per token, as OpenAI's `best_of`: a sum would favour short answers.
  const rank = ({ steps }: C): number =>
    steps.reduce((sum, { logprob }) => sum + logprob, 0) /
    Math.max(
      1,
      steps.reduce((sum, { sampled }) => sum + sampled, 0),
    )
  return candidates.toSorted((a, b) => rank(b) - rank(a)).slice(0, n)
}

function joined(a: Choice, b: Choice): Choice {
  const [x, y] = [a.logprobs, b.logprobs]
  return {
    ...b,
    text: a.text + b.text,
    logprobs: x &&
      y && {
        tokens: [...x.tokens, ...y.tokens],
        token_logprobs: [...x.token_logprobs, ...y.token_logprobs],
        top_logprobs: [...x.top_logprobs, ...y.top_logprobs],
        text_offset: [...x.text_offset, ...y.text_offset],
      },
  }
}

/** One chunk per token and choice. At each tick all choices advance by one token. */
async function* chunks(answer: Answer, body: Body, options: DemoOptions, signal: AbortSignal) {
  const withUsage = body.stream_options.include_usage
  const chunk = (choice: Choice) => ({
    ...answer.head,
    choices: [choice],
    ...(withUsage ? { usage: null } : {}),
  })
  let running = answer.candidates.flatMap((candidates) =>
    candidates.map(({ steps, writer }, rank) => ({ steps, ...writer(rank) })),
  )
  if (body.echo) for (const { echoed } of running) yield chunk(echoed())
  while (running.length > 0) {
    signal.throwIfAborted()
    await options.wait(1000 / (options.tokensPerSecond ?? 80), signal)
    const still: typeof running = []
    for (const run of running) {
      signal.throwIfAborted()
      const { value: step } = run.steps.next()
      if (!step) continue
      // As OpenAI does: "length" comes with the last text, "stop" in a chunk of its own.
      const ends = step.finish === 'stop'
      if (step.pieces.length > 0) yield chunk(run.written(step.pieces, ends ? null : step.finish))
      if (ends || (step.finish && step.pieces.length === 0)) {
        yield chunk(run.written([], step.finish))
      }
      if (step.finish === null) still.push(run)
    }
    running = still
  }
  if (withUsage) yield { ...answer.head, choices: [], usage: answer.usage() }
}

function streamed(answer: Answer, body: Body, options: DemoOptions, signal: AbortSignal): Response {
  const work = new AbortController()
  const abort = () => work.abort(signal.reason)
  if (signal.aborted) abort()
  else signal.addEventListener('abort', abort, { once: true })
  const run = chunks(answer, body, options, work.signal)
  const encoder = new TextEncoder()
  const stream = new ReadableStream<Uint8Array>({
    // Generates on demand only, so a reader that is slow or has left costs no CPU time. An abort
    // rejects here, which errors the stream.
    async pull(controller) {
      const { value, done } = await run.next()
      controller.enqueue(encoder.encode(`data: ${done ? '[DONE]' : JSON.stringify(value)}\n\n`))
      if (!done) return
      signal.removeEventListener('abort', abort)
      controller.close()
    },
    cancel(reason) {
      signal.removeEventListener('abort', abort)
      work.abort(reason)
    },
  })
  return new Response(stream, {
    headers: { 'content-type': 'text/event-stream; charset=utf-8', 'cache-control': 'no-cache' },
  })
}
