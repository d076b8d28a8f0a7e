// A chat upstream whose behaviour is chosen by the prompt: correct answers sent in several ways, and faults.
// The answer is a function of the prompt, so that it can be checked.
import { pick, seeded } from '../test/support/random.ts'
import {
  chatStream,
  json,
  type Line,
  refusal,
  type Script,
  type UpstreamCall,
  UpstreamServer,
} from '../test/support/upstream-server.ts'

/** Behaviours with a complete answer. */
const good = ['ok', 'private', 'slow', 'late', 'torn', 'json', 'flaky'] as const
const bad = ['cut', 'reset', 'e500', 'e429', 'garbage', 'huge', 'silent'] as const
export const faults: readonly [Behaviour, ...Behaviour[]] = [
  'late',
  'torn',
  'json',
  'flaky',
  ...bad,
]
export type Behaviour = (typeof good)[number] | (typeof bad)[number]

/** `private` prompts are sent with `no-store`, so each request is a separate call. */
export function promptOf(behaviour: Behaviour, name: string): string {
  return `${behaviour}: ${name}`
}

const behaviourOf = (prompt: string) => prompt.slice(0, prompt.indexOf(':')) as Behaviour

/** The complete answer to the prompt; null if the upstream never completes it. */
export function answerTo(prompt: string): string | null {
  return isGood(behaviourOf(prompt)) ? wordsOf(prompt) : null
}

const isGood = (behaviour: Behaviour) => (good as readonly string[]).includes(behaviour)

/** The text of which every partial answer to the prompt is a prefix. */
export const wordsOf = (prompt: string): string => piecesOf(prompt).join('')

const WORDS = [
  'the ',
  'naïve ',
  'sea, ',
  '“quoted” ',
  '\n\n',
  '🙂',
  '日本',
  'data: ',
  '\u2028',
  'a\\b ',
] as const

function piecesOf(prompt: string): string[] {
  const random = seeded(hash(prompt))
  const count = behaviourOf(prompt) === 'huge' ? 4000 : 1 + Math.floor(random() * 40)
  return Array.from({ length: count }, (_, i) => `${i} ${pick(WORDS, random)}`)
}

function hash(text: string): number {
  let value = 7
  for (const char of text) value = (Math.imul(value, 31) + (char.codePointAt(0) ?? 0)) | 0
  return value
}

export interface SoakUpstream {
  readonly url: string
  readonly calls: number
  /** The minimum cost of all calls: their usage, or the reservation if no usage was reported. */
  readonly tokens: number
  /** How often each prompt was answered completely. */
  readonly answered: ReadonlyMap<string, number>
  stop(): Promise<void>
}

/** The overhead that a reservation adds per prompt (SECURITY.md, "What is not promised"). */
const OVERHEAD_TOKENS = 64

interface ChatRequest {
  readonly max_tokens: number
  readonly messages: readonly { readonly content: string }[]
}

export async function startSoakUpstream(): Promise<SoakUpstream> {
  const server = await UpstreamServer.start()
  const lane = server.lane('soak')
  const answered = new Map<string, number>()
  const seen = new Set<string>()
  let calls = 0
  let tokens = 0
  lane.answers(async (call, line) => {
    calls += 1
    // The record of calls would grow without limit.
    lane.calls.length = 0
    const { max_tokens: maxTokens, messages } = call.body as unknown as ChatRequest
    const prompt = messages.at(-1)?.content ?? ''
    const input = Math.ceil(prompt.length / 4)
    const again = seen.has(prompt)
    seen.add(prompt)
    const written = await act(prompt, again, input, call, line)
    const most = Buffer.byteLength(prompt) + OVERHEAD_TOKENS + maxTokens
    tokens += costOf(behaviourOf(prompt), call.left, written, input, most)
    if (answerTo(prompt) !== null && written !== null && !call.left) {
      answered.set(prompt, (answered.get(prompt) ?? 0) + 1)
    }
  })
  return {
    url: server.url('soak'),
    get calls() {
      return calls
    },
    get tokens() {
      return tokens
    },
    answered,
    stop: () => server.stop(),
  }
}

/** The cost of one call. @param written tokens of the answer; null if the call was refused */
function costOf(
  behaviour: Behaviour,
  left: boolean,
  written: number | null,
  input: number,
  most: number,
): number {
  if (written === null) return 0
  // The Worker disconnected, before or after it received the usage.
  if (left) return Math.min(most, input + written)
  return isGood(behaviour) ? input + written : most
}

/** Answers as the prompt demands. @returns the tokens written; null if the call was refused */
async function act(
  prompt: string,
  again: boolean,
  input: number,
  call: UpstreamCall,
  line: Line,
): Promise<number | null> {
  const pieces = piecesOf(prompt)
  const tokens = pieces.length
  const usage = { prompt_tokens: input, completion_tokens: tokens, total_tokens: input + tokens }
  const whole = chatStream(pieces, { usage })
  switch (behaviourOf(prompt)) {
    case 'ok':
      await whole(call, line)
      return tokens
    case 'slow':
    case 'private':
      await chatStream(pieces, { usage, pace: () => passed(20) })(call, line)
      return tokens
    case 'late':
      await passed(400)
      await whole(call, line)
      return tokens
    case 'torn':
      await torn(whole, call, line)
      return tokens
    case 'json':
      await json({
        id: 'chat-1',
        object: 'chat.completion',
        created: 1,
        model: 'soak',
        choices: [
          {
            index: 0,
            message: { role: 'assistant', content: pieces.join('') },
            finish_reason: 'stop',
          },
        ],
        usage,
      })(call, line)
      return tokens
    case 'flaky':
      if (!again) {
        await refusal(500)(call, line)
        return null
      }
      await whole(call, line)
      return tokens
    case 'cut': {
      const half = pieces.slice(0, Math.ceil(tokens / 2))
      await chatStream(half, { finish: null, usage: null, done: false })(call, line)
      return half.length
    }
    case 'reset':
      await chatStream(pieces, { finish: null, usage: null, done: false })(call, {
        ...line,
        lastChunk: () => {},
      })
      await line.flushed()
      line.reset()
      return tokens
    case 'huge':
      await whole(call, line)
      return tokens
    case 'e500':
      await refusal(500)(call, line)
      return null
    case 'e429':
      await refusal(429, {}, { 'retry-after': '1' })(call, line)
      return null
    case 'garbage':
      line.head(200, { 'content-type': 'text/event-stream' })
      line.write('data: {"choices":[{"index":0,"delta"\n\n<html>\n\nevent: x\n\n')
      line.end()
      return 0
    case 'silent':
      line.head(200, { 'content-type': 'text/event-stream' })
      await call.closed
      return 0
  }
}

/** Sends the same bytes in pieces that split events and characters. */
async function torn(script: Script, call: UpstreamCall, line: Line): Promise<void> {
  let text = ''
  const chunk = (piece: string) => {
    text += piece
  }
  await script(call, { ...line, head: () => {}, chunk, lastChunk: () => {} })
  const bytes = Buffer.from(text)
  const random = seeded(bytes.length)
  line.head(200, { 'content-type': 'text/event-stream' })
  for (let at = 0; at < bytes.length; ) {
    const next = at + 1 + Math.floor(random() * 300)
    line.write(bytes.subarray(at, next))
    at = next
    await new Promise((resolve) => setImmediate(resolve))
  }
  line.end()
}

const passed = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms))
