// Generates text with the demo model: samples token after token by the request's parameters, with
// their log probabilities. Pure, apart from `random`.
import type { Model } from './model.ts'
import type { Source } from './subject.ts'

export interface Piece {
  readonly token: string
  /** The natural logarithm of the token's probability, regardless of the temperature. */
  readonly logprob: number
  /** Log probabilities of the likeliest tokens and this one, uncut; empty unless requested. */
  readonly top: Record<string, number>
}

export interface Step {
  /** Pieces that are certain to be part of the answer: not those that may begin a stop sequence. */
  readonly pieces: readonly Piece[]
  /** How many tokens this step sampled: 1, or 0 at the end of the text. */
  readonly sampled: number
  /** The log probability of the sampled token. */
  readonly logprob: number
  readonly finish: 'stop' | 'length' | null
}

/** What of a request decides the text. With `logprobs`, pieces list the likeliest tokens. */
export interface SamplingOptions {
  readonly max_tokens: number
  readonly temperature: number
  readonly top_p: number
  readonly stop: string | readonly string[]
  readonly presence_penalty: number
  readonly frequency_penalty: number
  readonly logprobs?: number
  /** Returns a number in [0, 1), as Math.random does. The only source of randomness. */
  readonly random: () => number
}

/** An answer of fewer tokens, such as ".", would look like an error. */
const MIN_TOKENS = 8

/** The log probability of each prompt token, for an echo; null for the first. */
export function score(model: Model, tokens: readonly string[], top: number): (Piece | null)[] {
  let context = model.read([])
  return tokens.map((token, index) => {
    const here = context
    context = model.advance(context, token)
    if (index === 0) return null
    const piece = describe(model, here, model.distribution(here), model.lookUp(here, token), top)
    // An unknown token is listed under its own text, not as `unseen`.
    const { [piece.token]: logprob = piece.logprob, ...others } = piece.top
    return { ...piece, token, top: { ...others, [token]: logprob } }
  })
}

/**
 * One step per sampled token, and one more if the text ends by itself. The last step has a
 * `finish`.
 */
export function* generate<C>(
  model: Source<C>,
  prompt: readonly string[],
  options: SamplingOptions,
): Generator<Step, void, undefined> {
  const used = new Map<number, number>()
  const buffer = createStopBuffer([options.stop].flat())
  let context = model.read(prompt)
  for (let count = 1; count <= options.max_tokens; count += 1) {
    const p = model.distribution(context)
    // A recital that has ended cannot go on.
    const mayEnd = count > MIN_TOKENS || p[model.end] === 1
    const id = choose(model, p, used, mayEnd, options)
    if (id === model.end) {
      yield { pieces: buffer.flush(), sampled: 0, logprob: 0, finish: 'stop' }
      return
    }
    used.set(id, (used.get(id) ?? 0) + 1)
    const piece = describe(model, context, p, id, options.logprobs)
    const { pieces, stopped } = buffer.push(piece)
    context = model.advance(context, model.token(id))
    const last = count === options.max_tokens
    yield {
      pieces: last && !stopped ? [...pieces, ...buffer.flush()] : pieces,
      sampled: 1,
      logprob: piece.logprob,
      finish: stopped ? 'stop' : last ? 'length' : null,
    }
    if (stopped) return
  }
  if (options.max_tokens < 1) yield { pieces: [], sampled: 0, logprob: 0, finish: 'length' }
}

function choose(
  model: Pick<Source<never>, 'end' | 'floor'>,
  p: Float64Array,
  used: ReadonlyMap<number, number>,
  mayEnd: boolean,
  { temperature, top_p, presence_penalty, frequency_penalty, random }: SamplingOptions,
): number {
  let weights = p.map((each) => (each <= model.floor ? 0 : each))
  if (!mayEnd) weights[model.end] = 0
  if (temperature !== 1 || presence_penalty !== 0 || frequency_penalty !== 0) {
    const logits = weights.map((weight) => Math.log(weight))
    for (const [id, times] of used) logits[id]! -= presence_penalty + frequency_penalty * times
    const best = logits.reduce((a, b) => Math.max(a, b), -Infinity)
    if (temperature === 0) return logits.indexOf(best)
    // Relative to the best logit: at a low temperature the others may underflow, but never the
    // best.
    weights = logits.map((logit) => Math.exp((logit - best) / temperature))
  }
  const total = (ids: readonly number[]) => ids.reduce((sum, id) => sum + weights[id]!, 0)
  let candidates = [...weights.keys()].filter((id) => weights[id]! > 0)
  if (top_p < 1) {
    candidates.sort((a, b) => weights[b]! - weights[a]!)
    const enough = top_p * total(candidates)
    let mass = 0
    let count = 0
    for (const id of candidates) {
      mass += weights[id]!
      count += 1
      if (mass >= enough) break
    }
    candidates = candidates.slice(0, count)
  }
  let rest = random() * total(candidates)
  for (const id of candidates) {
    rest -= weights[id]!
    if (rest < 0) return id
  }
  // Rounding errors can leave a small positive `rest`.
  return candidates.at(-1)!
}

function describe<C>(
  model: Source<C>,
  context: C,
  p: Float64Array,
  id: number,
  count: SamplingOptions['logprobs'],
): Piece {
  const token = model.spell(context, id)
  const top = new Map<string, number>()
  if (count !== undefined) {
    // In a story, several tokens are spelled as the hero: the likeliest of them is listed, or this one.
    for (const other of likeliest(p, count, model.floor)) {
      const spelled = model.spell(context, other)
      if (!top.has(spelled)) top.set(spelled, Math.log(p[other]!))
    }
    top.set(token, Math.log(p[id]!))
  }
  return { token, logprob: Math.log(p[id]!), top: Object.fromEntries(top) }
}

/** The ids with the highest probabilities above the floor, best first. */
function likeliest(p: Float64Array, count: number, floor: number): number[] {
  const possible = [...p.keys()].filter((id) => p[id]! > floor)
  return possible.sort((a, b) => p[b]! - p[a]!).slice(0, count)
}

/** Holds text back that may begin a stop sequence, and cuts the text before a complete one. */
function createStopBuffer(stops: readonly string[]) {
  let held: Piece[] = []
  const release = (length: number, cut: boolean): Piece[] => {
    const pieces: Piece[] = []
    let room = length
    for (const piece of held) {
      if (room < piece.token.length && !(cut && room > 0)) break
      pieces.push({ ...piece, token: piece.token.slice(0, room) })
      room = Math.max(0, room - piece.token.length)
    }
    held = cut ? [] : held.slice(pieces.length)
    return pieces
  }
  return {
    push(piece: Piece): { pieces: Piece[]; stopped: boolean } {
      held.push(piece)
      const text = held.map(({ token }) => token).join('')
      const found = stops.map((stop) => text.indexOf(stop)).filter((index) => index >= 0)
      if (found.length > 0) return { pieces: release(Math.min(...found), true), stopped: true }
      let begun = 0
      for (const stop of stops) {
        for (let length = Math.min(stop.length - 1, text.length); length > begun; length -= 1) {
          if (text.endsWith(stop.slice(0, length))) begun = length
        }
      }
      return { pieces: release(text.length - begun, false), stopped: false }
    },
    flush(): Piece[] {
      return release(Infinity, true)
    },
  }
}

/** Random numbers in [0, 1), always the same for the same seed and stream (mulberry32). */
export function seededRandom(seed: number, stream: number): () => number {
  let state = (seed ^ Math.floor(seed / 0x100000000) ^ Math.imul(stream + 1, 0x9e3779b9)) >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 0x100000000
  }
}
