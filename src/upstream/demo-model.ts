// A word trigram model, small enough to be learnt from a few chapters on first use, and a sampler.
// It knows no clock, no network and no wire: tokens in, tokens with their probabilities out.

/** The name of the end of a text among the likeliest tokens. It is never part of an answer. */
export const endOfText = '<|endoftext|>'
/** The name of all that the model has never read, for which it sets a little probability aside. */
export const unseen = '<|unseen|>'

// Every alternative is bounded and the last two leave no character out, so any string is cut in
// linear time and the tokens, joined, are that string again.
const tokenPattern =
  / ?\p{L}{1,20}(?:['-]\p{L}{1,20}){0,4}| ?\p{N}{1,3}| ?(?:--|[^\s\p{L}\p{N}])|\s/gu

/** Words and punctuation marks, each with the space before it. */
export function tokenize(text: string): string[] {
  return text.match(tokenPattern) ?? []
}

/** What kind of token was last: that decides where spaces go, and is what remains to go by after an
 * unknown word. */
type Kind = 'start' | 'open' | 'dash' | 'word' | 'pause' | 'end' | 'close'

/** All that the model remembers of a text. `spaced`: it ends in a space, so the next has none. */
export interface Context {
  readonly before: number
  readonly last: number
  readonly kind: Kind
  readonly quoted: boolean
  readonly spaced: boolean
}

export interface Model {
  /** The context after these tokens; the empty list is the start of a text. */
  read(tokens: readonly string[]): Context
  advance(context: Context, token: string): Context
  /** The probability of every token by id, over a sum of 1. A fresh array each time. */
  distribution(context: Context): Float64Array
  /** The text of a token as it would be written here. */
  spell(context: Context, id: number): string
  /** The id of a token as it is written here, that of `unseen` where the model does not know it. */
  lookUp(context: Context, token: string): number
  /** A token as it was learnt, which is what `advance` wants. */
  token(id: number): string
  readonly end: number
  /** The probability of a token that cannot stand here. It is scored with it, but never sampled. */
  readonly floor: number
}

// Set by hand on this text: with smaller discounts the model recites it, with larger it stammers.
const trigramDiscount = 0.25
const bigramDiscount = 0.4
const kindDiscount = 0.3
const unseenShare = 1e-6
const unknownKey = 0
const startKey = 1

const atStart: Context = {
  before: startKey,
  last: startKey,
  kind: 'start',
  quoted: false,
  spaced: false,
}

/** Learns a model from a text with one paragraph a line; the end of a line is the end of a text. */
export function createModel(text: string): Model {
  const vocabulary: string[] = [unseen, endOfText]
  const ids = new Map<string, number>([
    [unseen, 0],
    [endOfText, 1],
  ])
  const learnt = new Map<string, Traits>()
  const keys = new Map<string, number>()
  // The text as ids, and where in it each context word was last. That is all of the model: what
  // follows two words is looked for among what follows one, which spares building thousands of
  // lists, most of them with one entry. Measured on a slow, shared core: learning takes 4 to 6 ms
  // once the code is warm, 12 to 20 ms in a cold process; a token then takes under 0.1 ms.
  const seen: number[] = []
  const before: number[] = []
  const places = new Map<number, number[]>()
  const afterKind = new Map<string, number[]>()

  const advance = (context: Context, token: string): Context => {
    const { led, bare, lower, blank, breaks, kind } = learnt.get(token) ?? traitsOf(token)
    if (breaks) return atStart
    const inner = context.kind === 'start' || context.kind === 'open'
    if (blank) return { ...context, spaced: !inner && context.kind !== 'dash' }
    const apart = led || inner || context.spaced
    const opens =
      bare === '(' || (bare === '"' && (apart || !context.quoted)) || (bare === "'" && apart)
    return {
      before: context.last,
      last: keys.get(opens ? ` ${bare}` : lower) ?? unknownKey,
      kind: opens ? 'open' : kind,
      quoted: bare === '"' ? opens : context.quoted,
      spaced: false,
    }
  }

  for (const paragraph of text.split('\n')) {
    let context = atStart
    for (const token of [...tokenize(paragraph), endOfText]) {
      let id = ids.get(token)
      if (id === undefined) {
        id = vocabulary.push(token) - 1
        ids.set(token, id)
        const traits = traitsOf(token)
        learnt.set(token, traits)
        // Contexts forget case and spacing, but an opening quote is not the same as a closing one.
        for (const key of [traits.lower, ` ${traits.bare}`]) {
          if (!keys.has(key)) keys.set(key, keys.size + 2)
        }
      }
      append(places, context.last, seen.push(id) - 1)
      before.push(context.before)
      append(afterKind, situation(context), id)
      context = advance(context, token)
    }
  }

  const size = vocabulary.length
  const floor = unseenShare / size
  const unigram = new Float64Array(size)
  for (const id of seen) unigram[id]! += 1 / seen.length
  const grounds = new Map<string, Float64Array>()
  const masks = new Map<string, Uint8Array>()

  const ground = (context: Context): Float64Array =>
    memo(grounds, situation(context), () => {
      const p = unigram.slice()
      mix(p, afterKind.get(situation(context)) ?? [], kindDiscount)
      return p
    })

  const mask = (context: Context): Uint8Array =>
    memo(masks, `${situation(context)} ${context.spaced}`, () =>
      Uint8Array.from(vocabulary, (token) => (fits(context, token) ? 1 : 0)),
    )

  return {
    end: 1,
    floor,
    advance,
    read: (tokens) => tokens.reduce(advance, atStart),
    token: (id) => vocabulary[id] ?? unseen,
    spell: ({ spaced }, id) => (vocabulary[id] ?? unseen).slice(spaced && id > 1 ? 1 : 0),
    lookUp: ({ spaced }, token) => ids.get(spaced ? ` ${token}` : token) ?? 0,
    distribution(context) {
      const p = ground(context).slice()
      const after = places.get(context.last) ?? []
      const afterBoth = after.filter((place) => before[place] === context.before)
      mix(
        p,
        after.map((place) => seen[place]!),
        bigramDiscount,
      )
      mix(
        p,
        afterBoth.map((place) => seen[place]!),
        trigramDiscount,
      )
      const allowed = mask(context)
      let sum = 0
      for (let id = 0; id < size; id += 1) sum += p[id]! *= allowed[id]!
      for (let id = 0; id < size; id += 1) p[id] = (p[id]! / sum) * (1 - unseenShare) + floor
      return p
    },
  }
}

/** Absolute discounting: every follower gives up a little, and what is given up goes to `p`, the
 * distribution of the shorter context. */
function mix(p: Float64Array, followers: readonly number[], discount: number): void {
  if (followers.length === 0) return
  const total = followers.length
  const distinct = new Set(followers)
  const share = (discount * distinct.size) / total
  for (let id = 0; id < p.length; id += 1) p[id]! *= share
  for (const id of followers) p[id]! += 1 / total
  for (const id of distinct) p[id]! -= discount / total
}

/** Whether a token can stand here at all: spaces where they belong, quotes that open before they
 * close, no end inside a sentence. Statistics alone get that wrong after an unknown word. */
function fits({ kind, quoted, spaced }: Context, token: string): boolean {
  if (token === unseen) return false
  const finished = kind === 'end' || kind === 'close'
  if (token === endOfText) return finished && !quoted
  const { led, bare } = traitsOf(token)
  const word = /^[\p{L}\p{N}]/u.test(bare)
  if (bare === '"' && led && quoted) return false
  if (kind === 'start' || kind === 'open') {
    return !led && (word || bare === '(' || (bare === '"' && !quoted))
  }
  if (kind === 'dash') return !led && (word || bare === '"')
  if (spaced || led) return led
  return !word && bare !== '(' && (bare !== '"' || quoted)
}

interface Traits {
  readonly led: boolean
  readonly bare: string
  readonly lower: string
  readonly blank: boolean
  readonly breaks: boolean
  readonly kind: Kind
}

function traitsOf(token: string): Traits {
  const led = token.startsWith(' ')
  const bare = led ? token.slice(1) : token
  let kind: Kind = 'word'
  if (bare === '--') kind = 'dash'
  else if (/^[.!?]/.test(bare)) kind = 'end'
  else if (/^[,;:]/.test(bare)) kind = 'pause'
  else if (/^["')\]}]/.test(bare)) kind = 'close'
  return {
    led,
    bare,
    lower: bare.toLowerCase(),
    blank: /^\s*$/.test(bare),
    breaks: /^[\n\r\u2028\u2029]/.test(bare),
    kind,
  }
}

const situation = ({ kind, quoted }: Context): string => kind + (quoted ? ' quoted' : '')

function append<K>(lists: Map<K, number[]>, key: K, value: number): void {
  const list = lists.get(key)
  if (list === undefined) lists.set(key, [value])
  else list.push(value)
}

function memo<V>(made: Map<string, V>, key: string, make: () => V): V {
  const value = made.get(key) ?? make()
  made.set(key, value)
  return value
}

export interface Piece {
  readonly token: string
  /** Natural logarithm of the token's probability under the model, whatever the temperature. */
  readonly logprob: number
  /** The likeliest tokens and this one, before any cut, with their logarithms. Empty unless asked
   * for. */
  readonly top: Record<string, number>
}

export interface Step {
  /** What is now certain to be part of the answer: none while a stop sequence may have begun. */
  readonly pieces: readonly Piece[]
  /** How many tokens this step sampled: 1, or 0 for the end of the text. */
  readonly sampled: number
  /** The sum of the logarithms of what this step sampled. */
  readonly logprob: number
  readonly finish: 'stop' | 'length' | null
}

export interface SamplingOptions {
  readonly maxTokens: number
  /** 0 takes the likeliest token. Default 1. */
  readonly temperature?: number
  readonly topP?: number
  readonly stop?: readonly string[]
  readonly presencePenalty?: number
  readonly frequencyPenalty?: number
  /** How many of the likeliest tokens `top` lists. Default none, and not the chosen one either. */
  readonly logprobs?: number | undefined
  /** In [0, 1), as Math.random: the only source of chance. */
  readonly random: () => number
}

/** The probability of each prompt token, for an echo. The first follows none: null. */
export function score(model: Model, tokens: readonly string[], top: number): (Piece | null)[] {
  let context = model.read([])
  return tokens.map((token, index) => {
    const here = context
    context = model.advance(context, token)
    if (index === 0) return null
    const piece = describe(model, here, model.distribution(here), model.lookUp(here, token), top)
    // A token the model does not know still goes by its own name.
    const { [piece.token]: logprob = piece.logprob, ...others } = piece.top
    return { ...piece, token, top: { ...others, [token]: logprob } }
  })
}

/** One step per sampled token, and one more if the text ends by itself; the last has a `finish`. */
export function* generate(
  model: Model,
  prompt: readonly string[],
  options: SamplingOptions,
): Generator<Step, void, undefined> {
  const used = new Map<number, number>()
  const gate = createStopGate(options.stop ?? [])
  let context = model.read(prompt)
  for (let count = 1; count <= options.maxTokens; count += 1) {
    const p = model.distribution(context)
    // An answer has at least one token: an empty one looks like a fault to whoever reads it.
    const id = choose(model, p, used, options, count === 1)
    if (id === model.end) {
      yield { pieces: gate.flush(), sampled: 0, logprob: 0, finish: 'stop' }
      return
    }
    used.set(id, (used.get(id) ?? 0) + 1)
    const piece = describe(model, context, p, id, options.logprobs)
    const { pieces, stopped } = gate.push(piece)
    context = model.advance(context, model.token(id))
    const last = count === options.maxTokens
    yield {
      pieces: last && !stopped ? [...pieces, ...gate.flush()] : pieces,
      sampled: 1,
      logprob: piece.logprob,
      finish: stopped ? 'stop' : last ? 'length' : null,
    }
    if (stopped) return
  }
  if (options.maxTokens < 1) yield { pieces: [], sampled: 0, logprob: 0, finish: 'length' }
}

function choose(
  model: Model,
  p: Float64Array,
  used: ReadonlyMap<number, number>,
  options: SamplingOptions,
  first: boolean,
): number {
  const { temperature = 1, topP = 1, presencePenalty = 0, frequencyPenalty = 0 } = options
  let weights = p.map((each, id) => (each <= model.floor || (first && id === model.end) ? 0 : each))
  if (temperature !== 1 || presencePenalty !== 0 || frequencyPenalty !== 0) {
    const logits = weights.map((weight) => Math.log(weight))
    for (const [id, times] of used) logits[id]! -= presencePenalty + frequencyPenalty * times
    const best = logits.reduce((a, b) => Math.max(a, b), -Infinity)
    if (temperature === 0) return logits.indexOf(best)
    // Relative to the best, so that a low temperature underflows the others and not all of them.
    weights = logits.map((logit) => Math.exp((logit - best) / temperature))
  }
  const total = (ids: readonly number[]) => ids.reduce((sum, id) => sum + weights[id]!, 0)
  let candidates = [...weights.keys()].filter((id) => weights[id]! > 0)
  if (topP < 1) {
    candidates.sort((a, b) => weights[b]! - weights[a]!)
    const enough = topP * total(candidates)
    let mass = 0
    let kept = 0
    for (const id of candidates) {
      mass += weights[id]!
      kept += 1
      if (mass >= enough) break
    }
    candidates = candidates.slice(0, kept)
  }
  let rest = options.random() * total(candidates)
  for (const id of candidates) {
    rest -= weights[id]!
    if (rest < 0) return id
  }
  // Rounding can leave a trifle of `rest`.
  return candidates.at(-1)!
}

function describe(
  model: Model,
  context: Context,
  p: Float64Array,
  id: number,
  count: number | undefined,
): Piece {
  const token = model.spell(context, id)
  const top: Record<string, number> = {}
  if (count !== undefined) {
    for (const other of new Set([...likeliest(p, count, model.floor), id])) {
      top[model.spell(context, other)] = Math.log(p[other]!)
    }
  }
  return { token, logprob: Math.log(p[id]!), top }
}

/** The ids with the highest probabilities above the floor, best first. */
function likeliest(p: Float64Array, count: number, floor: number): number[] {
  const chosen: number[] = []
  while (chosen.length < count) {
    let best = -1
    for (let id = 0; id < p.length; id += 1) {
      if (p[id]! > (p[best] ?? floor) && !chosen.includes(id)) best = id
    }
    if (best < 0) break
    chosen.push(best)
  }
  return chosen
}

/** Holds back what may be the start of a stop sequence, and cuts the text where one is complete. */
function createStopGate(stops: readonly string[]) {
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

/** Random numbers in [0, 1) that are the same for the same seed and stream (mulberry32). */
export function seededRandom(seed: number, stream: number): () => number {
  let state = (seed ^ Math.floor(seed / 0x100000000) ^ Math.imul(stream + 1, 0x9e3779b9)) >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 0x100000000
  }
}
