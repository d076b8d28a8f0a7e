// Resuming an answer: the header, and the rest of the text after every character.
import { expect, test } from 'vitest'
import type { Logprobs } from '../../src/completion/completion.ts'
import type { Delta } from '../../src/completion/delta.ts'
import { encodeWhole, type Reader, type Shape } from '../../src/completion/encode.ts'
import { parseResumePoint, resumeFilter } from '../../src/completion/resume.ts'
import { parseStream } from '../support/answers.ts'
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
  `chat-${'a'.repeat(28)}:1`,
  `cmpl-${'a'.repeat(65)}:1`,
  `cmpl-${'a'.repeat(27)}é:1`,
  `cmpl-${'a'.repeat(27)}/:1`,
  'x'.repeat(100_000),
])('parseResumePoint() ignores %j', (header) => {
  expect(parseResumePoint(header)).toBeNull()
})

const shapeOf = (as: Shape['as']): Shape => ({
  api: 'completion',
  as,
  stream: true,
  includeUsage: false,
})
const readerAt = (as: Shape['as'], characters: number, id = ID): Reader => ({
  shape: shapeOf(as),
  resume: { id, characters },
})

/** The text of choice 0 in an event stream. */
const textIn = (events: string) => parseStream(events).text()

const words = 'Zoë 👩‍👩‍👧 said: "日本"\n\ndata: [DONE]\n\n\u2028\u0000end'

/** The same text, split in different ways. */
const cuttings: readonly [string, readonly string[]][] = [
  ['one piece', [words]],
  ['single characters', [...words]],
  ['pieces of five units', words.match(/[\s\S]{1,5}/g) ?? []],
]

const filtered = (deltas: readonly Delta[], at: number, id = ID) =>
  deltas.map(resumeFilter({ id, characters: at })).filter((delta) => delta !== null)

test.each(cuttings)('an answer of %s resumes after every character', (_, pieces) => {
  const deltas = [head, ...pieces.map((text) => piece(text)), finish(), usage]
  const folded = fold(deltas)
  expect(JSON.parse(encodeWhole(folded, readerAt('json', 5))).choices[0].text).toBe(words)
  for (let at = 0; at <= words.length + 2; at++) {
    expect(textOf(filtered(deltas, at)), `live at ${at}`).toBe(words.slice(at))
    // Half a surrogate pair is an escape in JSON; the client joins it with the half it has.
    const events = encodeWhole(folded, readerAt('sse', at))
    expect(textIn(events), `cached at ${at}`).toBe(words.slice(at))
    expect(events).toMatch(/"finish_reason":"stop"\}\]\}\n\ndata: \[DONE\]\n\n$/)
    expect(encodeWhole(folded, readerAt('text', at))).toBe(words.slice(at))
  }
})

function textOf(deltas: readonly Delta[]): string {
  return deltas
    .map((delta) => (delta.kind === 'text' && delta.index === 0 ? delta.text : ''))
    .join('')
}

test('resumeFilter() removes text of choice 0 only', () => {
  const rest = [piece('!', 1), finish(), finish(1), usage]
  const deltas = [head, piece('other', 1), piece('Hello'), ...rest]
  expect(filtered(deltas, 3)).toEqual([head, piece('other', 1), piece('lo'), ...rest])
})

test('resumeFilter() leaves the finish and the usage if the reader has the whole text', () => {
  const deltas = [head, piece('Hel'), piece('lo'), finish(), usage]
  for (const at of [5, 6, 999_999_999]) {
    expect(filtered(deltas, at)).toEqual([head, finish(), usage])
  }
})

test('resumeFilter() passes another answer unchanged', () => {
  const deltas = [head, piece('Hello'), finish(), usage]
  expect(filtered(deltas, 3, OTHER)).toEqual(deltas)
  expect(textIn(encodeWhole(fold(deltas), readerAt('sse', 3, OTHER)))).toBe('Hello')
  expect(encodeWhole(fold(deltas), readerAt('text', 3, OTHER))).toBe('Hello')
})

test('resumeFilter() keeps the log probabilities of the remaining tokens', () => {
  const scores = (tokens: string[], offset = 0): Logprobs => ({
    tokens,
    token_logprobs: tokens.map((_, i) => -i),
    top_logprobs: tokens.map((token) => ({ [token]: -1 })),
    text_offset: tokens.map((_, i) => offset + tokens.slice(0, i).join('').length),
  })
  const tokens = ['He', 'llo', ' ', 'you']
  const delta = piece('Hello you', 0, scores(tokens))
  const left = (at: number) => {
    const [, cut] = filtered([head, delta], at)
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

test('resumeFilter() keeps top_logprobs null', () => {
  const logprobs = {
    tokens: ['a', 'b'],
    token_logprobs: [-1, null],
    top_logprobs: null,
    text_offset: [0, 1],
  }
  const tops = { tokens: ['b'], token_logprobs: [null], top_logprobs: null, text_offset: [1] }
  expect(filtered([head, piece('ab', 0, logprobs)], 1)).toEqual([head, piece('b', 0, tops)])
})

test("parseResumePoint() takes a chat's spelling of the id, too", () => {
  expect(parseResumePoint(`chat${ID}:7`)).toEqual({ id: ID, characters: 7 })
})
