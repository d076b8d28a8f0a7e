// What is measured beside what: one table. The figure is CPU time of workerd for each request; a
// target is the least that a rival's may be as a share of ours.
import type { Question, Subject } from './subjects.ts'
import { floor } from './subjects.ts'
import type { Answer } from './upstream.ts'

export interface Rival {
  readonly name: string
  /** Rival ÷ ours is to be at least this. Absent: shown, not judged. */
  readonly target?: number
  start(upstreamUrl: string): Promise<Subject>
}

export interface Scenario {
  readonly what: string
  readonly answer: Answer
  /** Of a name that no request had before. */
  readonly question: (name: string) => Question
  /** In one round. */
  readonly requests: number
  readonly atOnce: number
  readonly rounds?: number
  /** All requests are one visitor's. Default false: each is a new one's. */
  readonly oneVisitor?: boolean
  /** The rivals answer with what ours has remembered. */
  readonly remembered?: boolean
  /** Over the benchmark's CONFIG. */
  readonly config?: object
  /** Other gateways are measured, too, where their bundles are given. */
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
  remembered: true,
}

const miss = (more: Omit<Question, 'prompt'> = {}) => ({
  question: (name: string) => ({ prompt: `Say this is a test: ${name}`, ...more }),
  atOnce: 16,
})

const streamFloors = (relay?: number, gathered?: number): Rival[] => [
  smallest('a relay that stores, joins and counts nothing', 'relay', relay),
  smallest('KV, object, ledger; text gathered as ours', 'stream', gathered, gatherMs('16')),
  smallest('KV, object, ledger; each event by itself', 'stream', undefined, gatherMs('0')),
]

/** As good as a model's tokens: a few characters in each event. */
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
      smallest('the same with the promised headers, bound and log line', 'hit-promises'),
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
    // Its address is hashed: no visitor is remembered.
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
    // Said differently each time (`user` is no part of the key): nothing is remembered of it.
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
      smallest('the same with rate limit, settlement and log lines', 'miss-promises'),
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
