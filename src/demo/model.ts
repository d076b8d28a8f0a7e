// A word trigram model, small enough to be learnt from a few chapters on first use: tokens in, the
// probabilities of the next one out. Chooses nothing; demo-sampling.ts does.

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
