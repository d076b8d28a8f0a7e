// A word trigram model, small enough to be trained on a few chapters on first use. It returns the
// probabilities of the next token; sampling.ts chooses one.

/** The token that ends a text. It is listed among the likeliest tokens, but never in an answer. */
const endOfText = '<|endoftext|>'
/** Stands for all tokens outside the vocabulary, which share a small probability. */
const unseen = '<|unseen|>'

// Every alternative is bounded, and together the last two match any character. So tokenizing takes
// linear time, and joining the tokens gives the same string again.
const tokenPattern =
  / ?\p{L}{1,20}(?:['-]\p{L}{1,20}){0,4}| ?\p{N}{1,3}| ?(?:--|[^\s\p{L}\p{N}])|\s/gu

/** Words and punctuation marks, each with the space before it. */
export function tokenize(text: string): string[] {
  return text.match(tokenPattern) ?? []
}

/** The kind of the last token: where spaces belong, and all the context after unknown words. */
type Kind = 'start' | 'open' | 'dash' | 'word' | 'pause' | 'end' | 'close'

/** The state after a text. `spaced`: it ends with a space, so the next token begins without one. */
export interface Context {
  readonly before: number
  readonly last: number
  readonly kind: Kind
  readonly quoted: boolean
  readonly spaced: boolean
}

// Tuned by hand for demo-text.txt: smaller discounts repeat the text, larger ones produce nonsense.
const trigramDiscount = 0.25
const bigramDiscount = 0.4
const kindDiscount = 0.3
const unseenShare = 1e-6
const unknownKey = 0
const startKey = 1

const start = { before: startKey, last: startKey }
const atStart: Context = { ...start, kind: 'start', quoted: false, spaced: false }

export type Model = ReturnType<typeof createModel>

/** Trains a model on a text with one paragraph per line. Each paragraph ends with `endOfText`. */
export function createModel(text: string) {
  const vocabulary = [unseen, endOfText]
  const ids = new Map(vocabulary.map((token, id) => [token, id] as const))
  const learnt = new Map<string, ReturnType<typeof traitsOf>>()
  const keys = new Map<string, number>()
  // The model is the text as ids, and the places after each context word. Trigrams are found among
  // the places of the last word, instead of building thousands of lists with mostly one entry.
  // Measured on a slow, shared core: training takes 4 to 6 ms once the code is warm, 12 to 20 ms in
  // a cold process; a token then takes less than 0.1 ms.
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
        // Contexts ignore case and spacing, but distinguish opening from closing quotes.
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

  const tokensAt = (some: readonly number[]) => some.map((place) => seen[place]!)

  return {
    end: 1,
    /** The probability of a token that is impossible in a context. Such tokens are never sampled. */
    floor,
    advance,
    /** The context after these tokens; an empty list gives the start of a text. */
    read: (tokens: readonly string[]) => tokens.reduce(advance, atStart),
    /** A token as it is in the vocabulary, for `advance`. */
    token: (id: number) => vocabulary[id] ?? unseen,
    /** The text of a token in this context. */
    spell: ({ spaced }: Context, id: number) =>
      (vocabulary[id] ?? unseen).slice(spaced && id > 1 ? 1 : 0),
    /** The id of a token as written in this context; the id of `unseen` for an unknown token. */
    lookUp: ({ spaced }: Context, token: string) => ids.get(spaced ? ` ${token}` : token) ?? 0,
    /** The probabilities of all tokens by id, which add up to 1. A new array each time. */
    distribution(context: Context): Float64Array {
      const p = ground(context).slice()
      const after = places.get(context.last) ?? []
      const afterBoth = after.filter((place) => before[place] === context.before)
      mix(p, tokensAt(after), bigramDiscount)
      mix(p, tokensAt(afterBoth), trigramDiscount)
      const allowed = mask(context)
      let sum = 0
      for (let id = 0; id < size; id += 1) sum += p[id]! *= allowed[id]!
      for (let id = 0; id < size; id += 1) p[id] = (p[id]! / sum) * (1 - unseenShare) + floor
      return p
    },
  }
}

/**
 * Absolute discounting: subtracts a discount from the count of every follower, and gives that share
 * of the probability to `p`, the distribution of the shorter context.
 */
function mix(p: Float64Array, followers: readonly number[], discount: number): void {
  if (followers.length === 0) return
  const total = followers.length
  const distinct = new Set(followers)
  const share = (discount * distinct.size) / total
  for (let id = 0; id < p.length; id += 1) p[id]! *= share
  for (const id of followers) p[id]! += 1 / total
  for (const id of distinct) p[id]! -= discount / total
}

/**
 * Whether a token is possible here: spaces are where they belong, quotes open before they close,
 * and the text does not end inside a sentence. After unknown words the statistics alone would not
 * ensure it.
 */
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

function traitsOf(token: string) {
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

function memo<V>(values: Map<string, V>, key: string, make: () => V): V {
  const value = values.get(key) ?? make()
  values.set(key, value)
  return value
}
