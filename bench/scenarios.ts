// The scenarios and the Workers that ours is compared with. The figure is CPU time of workerd per request.
import type { Question, Subject } from './subjects.ts'
import { floor } from './subjects.ts'
import type { Answer } from './upstream.ts'

export interface Rival {
  readonly name: string
  /** The minimum of rival ÷ ours. Without it, the ratio is only shown. */
  readonly target?: number
  start(upstreamUrl: string): Promise<Subject>
}

export interface Scenario {
  readonly what: string
  readonly answer: Answer
  /** @param name one that no earlier request has */
  readonly question: (name: string) => Question
  /** Per round. */
  readonly requests: number
  readonly atOnce: number
  readonly rounds?: number
  /** All requests come from one visitor. Default: each from a new one. */
  readonly oneVisitor?: boolean
  /** The answer is cached beforehand, also in the rivals. */
  readonly cached?: boolean
  /** Overrides of the benchmark's CONFIG. */
  readonly config?: object
  /** Also measure the gateways given with --peer. */
  readonly peers?: { readonly target?: number }
  readonly rivals: readonly Rival[]
}

const smallest = (name: string, file: string, target?: number, variables = {}): Rival => ({
  name,
  ...(target === undefined ? {} : { target }),
  start: async (upstreamUrl) => {
    const UPSTREAM = { type: 'text', value: `${upstreamUrl}/chat/completions` } as const
    return await floor(file, { UPSTREAM, ...variables })
  },
})

const gatherMs = (value: string) => ({ GATHER_MS: { type: 'text', value } })

const hit = {
  question: () => ({ prompt: 'Say this is a test' }),
  requests: 5000,
  atOnce: 8,
  oneVisitor: true,
  cached: true,
}

const miss = (more: Omit<Question, 'prompt'> = {}) => ({
  question: (name: string) => ({ prompt: `Say this is a test: ${name}`, ...more }),
  atOnce: 16,
})

const streamFloors = (relay?: number, gathered?: number): Rival[] => [
  smallest('relay without cache, joining or accounting', 'relay', relay),
  smallest('KV, object, ledger; coalesced like ours', 'stream', gathered, gatherMs('16')),
  smallest('KV, object, ledger; each event written separately', 'stream', undefined, gatherMs('0')),
]

/** Events of a few characters each, like the tokens of a model. */
const paced = (events: number, paceMs?: number): Answer => ({
  events,
  chars: 5,
  ...(paceMs === undefined ? {} : { paceMs }),
})

export const scenarios: readonly Scenario[] = [
  {
    what: 'memory hit, JSON 300 B',
    answer: { events: 1, chars: 100 },
    ...hit,
    rivals: [
      smallest('hash and answer', 'hit', 0.55),
      smallest('hash and answer, with headers, time limit and log line', 'hit-promises'),
    ],
  },
  {
    what: 'memory hit, JSON 8 KB',
    answer: { events: 1, chars: 8000 },
    ...hit,
    rivals: [smallest('hash and answer', 'hit')],
  },
  {
    what: 'memory hit, SSE 8 KB',
    answer: { events: 1, chars: 8000 },
    ...hit,
    question: () => ({ prompt: 'Say this is a test', stream: true }),
    rivals: [smallest('hash and answer', 'hit')],
  },
  {
    // The Worker has to hash each visitor's address.
    what: 'memory hit, each a new visitor',
    answer: { events: 1, chars: 100 },
    ...hit,
    oneVisitor: false,
    rivals: [smallest('hash and answer', 'hit')],
  },
  {
    what: 'KV hit, JSON 300 B',
    answer: { events: 1, chars: 100 },
    ...hit,
    // `user` is not part of the cache key, but it makes each body different, so no parsed body is reused.
    question: (name) => ({ prompt: 'Say this is a test', user: name }),
    requests: 2000,
    config: { cache: { memory_bytes: 0 } },
    rivals: [smallest('hash, one KV read', 'kv-hit', 0.75)],
  },
  {
    what: 'miss, JSON',
    answer: { events: 1, chars: 100 },
    ...miss(),
    atOnce: 8,
    requests: 200,
    rivals: [
      smallest('KV, object, ledger, upstream', 'miss', 0.85),
      smallest(
        'KV, object, ledger, upstream, with rate limit, settlement and logs',
        'miss-promises',
      ),
    ],
    peers: {},
  },
  {
    what: 'stream miss, 64 events 2 ms apart',
    answer: paced(64, 2),
    ...miss({ stream: true }),
    requests: 64,
    rivals: streamFloors(0.75, 0.9),
    peers: { target: 1 },
  },
  {
    what: 'stream miss, 64 events 20 ms apart',
    answer: paced(64, 20),
    ...miss({ stream: true }),
    requests: 32,
    rivals: streamFloors(),
    peers: {},
  },
  {
    what: 'stream miss, 500 events 2 ms apart',
    answer: paced(500, 2),
    ...miss({ stream: true }),
    requests: 16,
    rivals: streamFloors(1.1, 0.9),
    peers: { target: 1 },
  },
  {
    what: 'stream miss, 500 events 20 ms apart',
    answer: paced(500, 20),
    ...miss({ stream: true }),
    requests: 16,
    rounds: 3,
    rivals: streamFloors(),
    peers: {},
  },
  {
    what: 'stream miss, 64 events at once',
    answer: paced(64),
    ...miss({ stream: true }),
    requests: 96,
    rivals: streamFloors(),
    peers: {},
  },
]
