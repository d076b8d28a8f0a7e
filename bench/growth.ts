// How the cost of a request grows: CPU per request for longer prompts, longer answers and more
// readers of one flight. All sizes in each round, one after another; medians of the rounds.
import { fly } from './flights.ts'
import { ask, load, median } from './load.ts'
import { configFor, ours, type Subject } from './subjects.ts'
import type { BenchUpstream } from './upstream.ts'

/** One line of the chart: microseconds of CPU at each size. */
export interface Curve {
  readonly name: string
  readonly us: readonly number[]
}

export interface Growth {
  readonly title: string
  readonly sizes: readonly number[]
  readonly curves: readonly Curve[]
}

const PROMPT_BYTES = [100, 320, 1000, 3200, 10_000, 32_000]
const ANSWER_TOKENS = [10, 40, 160, 640, 2500, 8000]
const READERS = [1, 4, 16, 64, 250, 1000]
/** About what a token is in English text. */
const TOKEN_CHARS = 4

export async function growth(upstream: BenchUpstream, quick: boolean): Promise<Growth[]> {
  const rounds = quick ? 1 : 5
  const subject = await ours(configFor(upstream.url))
  try {
    return [
      {
        title: 'prompt, bytes',
        sizes: PROMPT_BYTES,
        curves: [
          { name: 'memory hit', us: await overRounds(rounds, PROMPT_BYTES, promptHit(subject)) },
          {
            name: 'miss, JSON',
            us: await overRounds(rounds, PROMPT_BYTES, promptMiss(subject, upstream)),
          },
        ],
      },
      {
        title: 'answer, tokens',
        sizes: ANSWER_TOKENS,
        curves: [
          {
            name: 'memory hit',
            us: await overRounds(rounds, ANSWER_TOKENS, answerHit(subject, upstream)),
          },
          {
            name: 'miss, stream',
            us: await overRounds(rounds, ANSWER_TOKENS, answerStream(subject, upstream)),
          },
        ],
      },
      {
        title: 'readers of a flight',
        sizes: READERS,
        curves: [
          { name: 'each reader', us: await overRounds(rounds, READERS, reader(subject, upstream)) },
        ],
      },
    ]
  } finally {
    await subject.stop()
  }
}

/** Microseconds of CPU per request at one size. */
type Measure = (size: number, round: number) => Promise<number>

async function overRounds(
  rounds: number,
  sizes: readonly number[],
  measure: Measure,
): Promise<number[]> {
  const seen = sizes.map((): number[] => [])
  // The first round warms up.
  for (let round = -1; round < rounds; round++) {
    for (const [i, size] of sizes.entries()) {
      const us = await measure(size, round)
      if (round >= 0) seen[i]?.push(us)
    }
  }
  return seen.map(median)
}

async function cpuOf(
  subject: Subject,
  requests: number,
  body: (i: number) => string,
): Promise<number> {
  const before = subject.cpuMs()
  const { statuses, samples } = await load({ url: subject.url, requests, atOnce: 8, body })
  if (statuses.get(200) !== requests) {
    throw new Error(`growth: ${JSON.stringify([...statuses])} ${samples[0]?.slice(0, 300)}`)
  }
  return ((subject.cpuMs() - before) * 1000) / requests
}

/** Words, of exactly so many bytes, that begin with a name of their own. */
const promptOf = (name: string, bytes: number) =>
  `${name} ${'the quick brown fox '.repeat(Math.ceil(bytes / 20))}`.slice(0, bytes)

function promptHit(subject: Subject): Measure {
  return async (bytes) => {
    const body = JSON.stringify({ prompt: promptOf('kept', bytes) })
    await ask(subject.url, body)
    return await cpuOf(subject, 1000, () => body)
  }
}

function promptMiss(subject: Subject, upstream: BenchUpstream): Measure {
  return async (bytes, round) => {
    upstream.answer({ chunks: 1, chars: 100 })
    return await cpuOf(subject, 60, (i) =>
      JSON.stringify({ prompt: promptOf(`new ${round} ${i}`, bytes) }),
    )
  }
}

function answerHit(subject: Subject, upstream: BenchUpstream): Measure {
  return async (tokens) => {
    upstream.answer({ chunks: 1, chars: tokens * TOKEN_CHARS })
    const body = JSON.stringify({ prompt: `kept, answered with ${tokens}` })
    await ask(subject.url, body)
    return await cpuOf(subject, 1000, () => body)
  }
}

function answerStream(subject: Subject, upstream: BenchUpstream): Measure {
  return async (tokens, round) => {
    upstream.answer({ chunks: tokens, chars: TOKEN_CHARS })
    const requests = Math.max(2, Math.min(50, Math.round(4000 / tokens)))
    return await cpuOf(subject, requests, (i) =>
      JSON.stringify({ prompt: `streamed ${tokens} ${round} ${i}`, stream: true }),
    )
  }
}

function reader(subject: Subject, upstream: BenchUpstream): Measure {
  return async (readers, round) => {
    // A flight of few is too short to be measured.
    const flights = Math.max(1, Math.round(16 / readers))
    let ms = 0
    for (let i = 0; i < flights; i++) {
      const prompt = `flight of ${readers}, ${round} ${i}`
      ms += await fly(subject, upstream, JSON.stringify({ prompt, stream: true }), readers)
    }
    return (ms * 1000) / (flights * readers)
  }
}
