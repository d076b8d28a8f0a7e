// Resuming an answer: the header, and the rest of the text after every character.
import fc from 'fast-check'
import { expect, test } from 'vitest'
import type { Logprobs } from '../../src/completion/completion.ts'
import type { Delta } from '../../src/completion/delta.ts'
import { encodeWhole, type Reader, type Shape } from '../../src/completion/encode.ts'
import { parseResumePoint, resumeFilter } from '../../src/completion/resume.ts'
import { fold } from '../support/fold.ts'

const ID = `cmpl-${'aB3'.repeat(10)}`
const OTHER = `cmpl-${'z'.repeat(30)}`

const head: Delta = { kind: 'head', head: { id: ID, created: 1, model: 'm' } }
const piece = (text: string, index = 0, logprobs: Logprobs | null = null): Delta => ({
  kind: 'text',
  index,
  text,
  logprobs,
})
const finish = (index = 0): Delta => ({ kind: 'finish', index, reason: 'stop' })
const usage: Delta = {
  kind: 'usage',
  usage: { prompt_tokens: 1, completion_tokens: 2, total_tokens: 3 },
  estimated: false,
}

test('parseResumePoint() reads an id and a number of characters', () => {
  expect(parseResumePoint(`${ID}:0`)).toEqual({ id: ID, characters: 0 })
  expect(parseResumePoint(`${ID}:17`)).toEqual({ id: ID, characters: 17 })
  expect(parseResumePoint(`${ID}:007`)).toEqual({ id: ID, characters: 7 })
  expect(parseResumePoint(`${ID}:999999999`)).toEqual({ id: ID, characters: 999_999_999 })
})

test.each([
  null,
  '',
  '17',
  ID,
  `${ID}:`,
  `:${ID}`,
  `${ID}:-1`,
  `${ID}:1.5`,
  `${ID}:1e3`,
  `${ID}:0x1`,
  `${ID}: 1`,
  ` ${ID}:1`,
  `${ID}:1 `,
  `${ID}:1\n`,
  `${ID}:1,${ID}:2`,
  `${ID}:1:1`,
  `${ID}:٣`,
  `${ID}:1234567890`,
  `${ID}:NaN`,
  'cmpl-short:1',
  `chatcmpl-${'a'.repeat(28)}:1`,
  `cmpl-${'a'.repeat(65)}:1`,
  `cmpl-${'a'.repeat(27)}é:1`,
  `cmpl-${'a'.repeat(27)}/:1`,
  'x'.repeat(100_000),
])('parseResumePoint() ignores %j', (header) => {
  expect(parseResumePoint(header)).toBeNull()
})

test('parseResumePoint() never throws', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (header) => {
      const point = parseResumePoint(header)
      if (point !== null) expect(point.characters).toBeGreaterThanOrEqual(0)
    }),
  )
})

const shapeOf = (as: Shape['as']): Shape => ({ as, stream: true, includeUsage: false })
const readerAt = (as: Shape['as'], characters: number, id = ID): Reader => ({
  shape: shapeOf(as),
  resume: { id, characters },
})

/** The text of a choice in an event stream. */
function textIn(events: string, index = 0): string {
  return events
    .split('\n\n')
    .filter((event) => event.startsWith('data: {'))
    .flatMap((event) => (JSON.parse(event.slice(6)) as { choices: ChunkChoice[] }).choices)
    .filter((choice) => choice.index === index)
    .map(({ text }) => text)
    .join('')
}

interface ChunkChoice {
  readonly index: number
  readonly text: string
  readonly finish_reason: string | null
}

const words = 'Zoë 👩‍👩‍👧 said: "日本"\n\ndata: [DONE]\n\n\u2028\u0000end'

/** The same text, split in different ways. */
const cuttings: readonly [string, readonly string[]][] = [
  ['one piece', [words]],
  ['single characters', [...words]],
  ['pieces of five units', words.match(/[\s\S]{1,5}/g) ?? []],
]

test.each(cuttings)('a stream of %s resumes after every character', (_, pieces) => {
  const deltas = [head, ...pieces.map((text) => piece(text)), finish(), usage]
  const folded = fold(deltas)
  const { choices } = folded.completion
  const json = JSON.parse(encodeWhole(folded, { shape: shapeOf('json'), resume: null }))
  expect(json.choices[0].text).toBe(words)
  for (let at = 0; at <= words.length + 2; at++) {
    const live = deltas.flatMap((delta) => cutting(ID, at)(delta) ?? [])
    const rest = deltas.map(cutterOf(at)).filter((delta) => delta !== null)
    expect(textOf(rest), `live at ${at}`).toBe(words.slice(at))
    expect(live.length).toBeGreaterThan(0)
    // Half a surrogate pair is an escape in JSON; the client joins it with the half it has.
    const cached = textIn(encodeWhole(folded, readerAt('sse', at)))
    expect(words.slice(0, at) + cached, `cached at ${at}`).toBe(
      words.slice(0, at) + words.slice(at),
    )
    expect(encodeWhole(folded, readerAt('text', at))).toBe(words.slice(at))
    expect(encodeWhole(folded, readerAt('sse', at))).toMatch(
      /"finish_reason":"stop"\}\]\}\n\ndata: \[DONE\]\n\n$/,
    )
  }
  expect(choices).toHaveLength(1)
})

function cutting(id: string, characters: number) {
  const cut = resumeFilter({ id, characters })
  cut(head)
  return cut
}

function cutterOf(at: number) {
  return resumeFilter({ id: ID, characters: at })
}

function textOf(deltas: readonly Delta[]): string {
  return deltas
    .map((delta) => (delta.kind === 'text' && delta.index === 0 ? delta.text : ''))
    .join('')
}

test('skipper() removes text of choice 0 only', () => {
  const deltas = [
    head,
    piece('other', 1),
    piece('Hello'),
    piece('!', 1),
    finish(),
    finish(1),
    usage,
  ]
  const cut = deltas.map(cutterOf(3)).filter((delta) => delta !== null)
  expect(cut).toEqual([
    head,
    piece('other', 1),
    piece('lo'),
    piece('!', 1),
    finish(),
    finish(1),
    usage,
  ])
})

test('skipper() leaves the finish and the usage if the reader has the whole text', () => {
  const deltas = [head, piece('Hel'), piece('lo'), finish(), usage]
  for (const at of [5, 6, 999_999_999]) {
    expect(deltas.map(cutterOf(at)).filter((delta) => delta !== null)).toEqual([
      head,
      finish(),
      usage,
    ])
  }
})

test('skipper() passes another answer unchanged', () => {
  const deltas = [head, piece('Hello'), finish(), usage]
  expect(deltas.map(resumeFilter({ id: OTHER, characters: 3 }))).toEqual(deltas)
  expect(textIn(encodeWhole(fold(deltas), readerAt('sse', 3, OTHER)))).toBe('Hello')
  expect(encodeWhole(fold(deltas), readerAt('text', 3, OTHER))).toBe('Hello')
})

test('skipper() keeps the log probabilities of the remaining tokens', () => {
  const scores = (tokens: string[], offset = 0): Logprobs => ({
    tokens,
    token_logprobs: tokens.map((_, i) => -i),
    top_logprobs: tokens.map((token) => ({ [token]: -1 })),
    text_offset: tokens.map((_, i) => offset + tokens.slice(0, i).join('').length),
  })
  const tokens = ['He', 'llo', ' ', 'you']
  const delta = piece('Hello you', 0, scores(tokens))
  const left = (at: number) => {
    const cut = cutting(ID, at)(delta)
    return cut?.kind === 'text' ? cut.logprobs : null
  }
  expect(left(0)).toEqual(scores(tokens))
  expect(left(2)).toEqual({
    tokens: ['llo', ' ', 'you'],
    token_logprobs: [-1, -2, -3],
    top_logprobs: [{ llo: -1 }, { ' ': -1 }, { you: -1 }],
    text_offset: [2, 5, 6],
  })
  // A token that begins before the cut is left out.
  expect(left(3)?.tokens).toEqual([' ', 'you'])
  expect(left(5)?.tokens).toEqual([' ', 'you'])
  expect(left(6)?.text_offset).toEqual([6])
  expect(left(8)).toBeNull()
})

test('skipper() keeps top_logprobs null', () => {
  const logprobs = {
    tokens: ['a', 'b'],
    token_logprobs: [-1, null],
    top_logprobs: null,
    text_offset: [0, 1],
  }
  const cut = cutting(ID, 1)(piece('ab', 0, logprobs))
  expect(cut).toEqual(
    piece('b', 0, { tokens: ['b'], token_logprobs: [null], top_logprobs: null, text_offset: [1] }),
  )
})

test('skipper() leaves the rest of any text in any pieces', () => {
  const text = fc.string({ unit: 'grapheme', minLength: 1, maxLength: 6 })
  fc.assert(
    fc.property(fc.array(text, { minLength: 1, maxLength: 8 }), fc.nat(60), (texts, at) => {
      const whole = texts.join('')
      const deltas = [head, ...texts.map((text) => piece(text)), finish(), usage]
      const cut = deltas.map(cutterOf(at)).filter((delta) => delta !== null)
      expect(textOf(cut)).toBe(whole.slice(at))
      expect(cut.filter(({ kind }) => kind !== 'text')).toEqual([head, finish(), usage])
      expect(textIn(encodeWhole(fold(deltas), readerAt('sse', at)))).toBe(whole.slice(at))
    }),
  )
})
