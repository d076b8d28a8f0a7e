// The demo upstream: serves the completions wire from the built-in model, so that the Worker runs
// without an account at any provider. Only this Worker can call it, so requests are as the adapter
// writes them.

import type { Wait } from '../deadline.ts'
import { upstreamFailure } from '../upstream/failure.ts'
import { createModel, type Model, tokenize } from './model.ts'
import {
  generate,
  type Piece,
  type SamplingOptions,
  type Step,
  score,
  seededRandom,
} from './sampling.ts'
import { type Source, sourceFor } from './subject.ts'

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

interface Body extends Omit<SamplingOptions, 'random'> {
  readonly model: string
  readonly prompt: string | readonly string[]
  readonly n: number
  readonly best_of?: number
  readonly seed?: number
  readonly echo?: boolean
  readonly stream?: boolean
  readonly stream_options?: { readonly include_usage?: boolean }
}

/** What the completions adapter sends, with a prompt or, of a chat, with messages. */
interface Sent extends Partial<Body> {
  readonly model: string
  readonly messages?: readonly { readonly role: string; readonly content: string }[]
  /** With messages, `logprobs` is a flag. */
  readonly top_logprobs?: number
}

const defaults = {
  max_tokens: 16,
  temperature: 1,
  top_p: 1,
  presence_penalty: 0,
  frequency_penalty: 0,
  stop: [],
  n: 1,
}

/** Limits the CPU time of a request: the model writes about ten thousand tokens per second. */
const MAX_TOKENS_IN_ALL = 65_536
/** An answer without tokens costs something, too, so this is the least that counts. */
const LEAST_TOKENS = 16

/** The pace of each choice in a stream; other answers are not paced. */
const TOKENS_PER_SECOND = 80

/**
 * A handler for `POST …/completions`. The model is trained on the first request; the handler
 * rejects with a GatewayError `upstream_unavailable` if the training text cannot be read.
 */
export function createDemo(options: DemoOptions): (request: Request) => Promise<Response> {
  let model: Model | undefined
  return async (request) => {
    const { messages = [], top_logprobs, ...given }: Sent = JSON.parse(await request.text())
    // The model continues a text, so a conversation is one.
    const talk = messages.map(({ content }) => content).join('\n\n')
    const listed = top_logprobs === undefined ? {} : { logprobs: top_logprobs }
    const body: Body = { ...defaults, prompt: talk, ...given, ...listed }
    const { prompt, n, best_of = n, max_tokens } = body
    const inAll = [prompt].flat().length * best_of * Math.max(LEAST_TOKENS, max_tokens)
    if (inAll > MAX_TOKENS_IN_ALL) {
      const message = `Cannot use "max_tokens": expected at most ${MAX_TOKENS_IN_ALL} over all texts, got ${inAll}`
      return Response.json({ error: { message, param: 'max_tokens' } }, { status: 400 })
    }
    if (model === undefined) {
      const text = await options.readText().catch(() => {
        throw upstreamFailure('unavailable', { code: 'no_demo_text' })
      })
      // A concurrent request may have trained the model meanwhile.
      model ??= createModel(text)
    }
    const said = messages.findLast(({ role }) => role === 'user')?.content
    const answer = createAnswer(model, body, said, options)
    if (body.stream) return streamed(answer, body, options, request.signal)
    return Response.json(complete(answer, n))
  }
}

type Answer = ReturnType<typeof createAnswer>

/** A token of the answer, or of the prompt, of which log probabilities may be unknown. */
interface Written {
  readonly token: string
  readonly logprob: number | null
  readonly top: Piece['top'] | null
}

/** Turns tokens into a wire choice, without its index, and counts their text offsets. */
function createWriter(logprobs: Body['logprobs'], start: number) {
  let offset = start
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
      text: tokens.join(''),
      logprobs: logprobs === undefined ? null : listed,
      finish_reason: finish,
    }
  }
}

/** @param said the last message of a chat's user, which decides what the answer is about */
function createAnswer(
  model: Model,
  body: Body,
  said: string | undefined,
  { now, random }: DemoOptions,
) {
  const { prompt, n, best_of = n, echo, logprobs, seed } = body
  const usage = { prompt_tokens: 0, completion_tokens: 0, total_tokens: 0 }
  const count = (kind: 'prompt_tokens' | 'completion_tokens', tokens: number) => {
    usage[kind] += tokens
    usage.total_tokens += tokens
  }

  /**
   * One candidate. Its random numbers depend on its place among the candidates of its prompt, not
   * on the prompt's place, so that a prompt with a seed has the same text alone and in a list.
   */
  function* candidate<C>(source: Source<C>, tokens: readonly string[], place: number) {
    const seeded = seed === undefined ? random : seededRandom(seed, place)
    for (const step of generate(source, tokens, { ...body, random: seeded })) {
      count('completion_tokens', step.sampled)
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
    usage,
    /** The candidates of each prompt. Their generators have not started. */
    candidates: [prompt].flat().map((text) => {
      const tokens = tokenize(text)
      count('prompt_tokens', tokens.length)
      // Evaluations score texts: those probabilities have to be the model's own.
      const isScored = echo && logprobs !== undefined
      const source = isScored ? model : sourceFor(model, text, said, body.max_tokens)
      const scored = isScored ? score(model, tokens, logprobs) : []
      const echoed = tokens.map((token, i) => scored[i] ?? { token, logprob: null, top: null })
      return Array.from({ length: best_of }, (_, place) => ({
        echo: echo ? echoed : [],
        steps: candidate(source as Source<unknown>, tokens, place),
        write: createWriter(logprobs, echo ? 0 : text.length),
      }))
    }),
  }
}

function complete({ head, candidates, usage }: Answer, n: number): unknown {
  const choices = candidates.flatMap((some) => {
    const finished = some.map((each) => ({ ...each, steps: [...each.steps] }))
    return bestFirst(finished, n).map(({ echo, steps, write }) => {
      const pieces = steps.flatMap((step) => step.pieces)
      return write([...echo, ...pieces], steps.at(-1)?.finish ?? null)
    })
  })
  return { ...head, choices: choices.map((choice, index) => ({ index, ...choice })), usage }
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
async function* chunks(answer: Answer, body: Body, { wait }: DemoOptions, signal: AbortSignal) {
  const { head, usage } = answer
  const withUsage = body.stream_options?.include_usage
  const empty = withUsage ? { usage: null } : {}
  let running = answer.candidates.flat().map(({ echo, steps, write }, index) => ({
    echo,
    steps,
    chunk: (written: readonly Written[], finish: Step['finish']) => ({
      ...head,
      choices: [{ index, ...write(written, finish) }],
      ...empty,
    }),
  }))
  if (body.echo) for (const { echo, chunk } of running) yield chunk(echo, null)
  while (running.length > 0) {
    signal.throwIfAborted()
    await wait(1000 / TOKENS_PER_SECOND, signal)
    const still: typeof running = []
    for (const run of running) {
      signal.throwIfAborted()
      const { value: step } = run.steps.next()
      if (!step) continue
      // As OpenAI does: "length" comes with the last text, "stop" in a chunk of its own.
      const ends = step.finish === 'stop'
      if (step.pieces.length > 0) yield run.chunk(step.pieces, ends ? null : step.finish)
      if (ends || (step.finish && step.pieces.length === 0)) yield run.chunk([], step.finish)
      if (step.finish === null) still.push(run)
    }
    running = still
  }
  if (withUsage) yield { ...head, choices: [], usage }
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
  return new Response(stream, { headers: { 'content-type': 'text/event-stream' } })
}
