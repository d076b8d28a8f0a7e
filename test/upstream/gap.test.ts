// `suffix` on wires of chat: the request for the text of a gap, and what is cut off the answer.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type Gap, gapRequest, gapStages } from '../../src/upstream/gap.ts'
import { Trimmer } from '../../src/upstream/trimmer.ts'

const text = (received: string, index = 0) =>
  ({ kind: 'text', index, text: received, logprobs: null }) as const

/** What arrives after each piece, and at the end. */
function trickle(gap: Gap, pieces: readonly string[]): string[] {
  const trimmer = new Trimmer(() => gapStages(gap), 1)
  const joined = (deltas: readonly { readonly text: string }[]) =>
    deltas.map((delta) => delta.text).join('')
  return [...pieces.map((piece) => joined(trimmer.add([text(piece)]))), joined(trimmer.rest())]
}

const trimmed = (gap: Gap, answer: string) => trickle(gap, [answer]).join('')

describe('gapRequest()', () => {
  test('puts the texts between marks, unchanged, and names the marks in the system message', () => {
    const { system, prompts } = gapRequest({ prefix: 'f(\n', suffix: '  )' }, null)
    expect(prompts).toEqual(['<before-1>f(\n</before-1>\n<after-1>  )</after-1>'])
    for (const mark of ['<before-1>', '</before-1>', '<after-1>', '</after-1>']) {
      expect(system).toContain(mark)
    }
  })

  test('follows the owner’s system message', () => {
    const { system } = gapRequest({ prefix: 'a', suffix: 'b' }, 'Write Rust.')
    const { system: alone } = gapRequest({ prefix: 'a', suffix: 'b' }, null)
    expect(system).toBe(`Write Rust.\n\n${alone}`)
  })

  test('takes the first number whose marks occur in neither text', () => {
    const gap = { prefix: '</before-1> <AFTER-2>', suffix: 'before-3, after-05, before-10' }
    expect(gapRequest(gap, null).prompts[0]).toMatch(/^<before-4>/)
  })

  test('cannot be forged: each mark stands once in the message, around its text', () => {
    const part = fc.constantFrom('<', '</', 'before-', 'after-', '1', '2', '3', '>', ' ', 'x')
    const texts = fc.array(part, { minLength: 1 }).map((parts) => parts.join(''))
    fc.assert(
      fc.property(texts, texts, (prefix, suffix) => {
        const { system, prompts } = gapRequest({ prefix, suffix }, null)
        expect(gapRequest({ prefix, suffix }, null)).toEqual({ system, prompts })
        const [message = ''] = prompts
        const [, number] = /^<before-(\d+)>/.exec(message) ?? []
        const marks = ['before', 'after'].map((name) => `${name}-${number}>`)
        for (const mark of marks) expect(message.split(mark)).toHaveLength(3)
        const [before, after] = marks as [string, string]
        expect(message).toBe(`<${before}${prefix}</${before}\n<${after}${suffix}</${after}`)
      }),
    )
  })
})

const code = {
  prefix: 'import x\n\nfunction add(a, b) {\n  return ',
  suffix: '\n}\n\nexport { add }\n',
}

describe('gapStages() cuts off', () => {
  test.each<[string, Gap, string, string]>([
    ['the whole prefix', code, `${code.prefix}a + b`, 'a + b'],
    ['its last lines', code, 'function add(a, b) {\n  return a + b', 'a + b'],
    ['its last line', code, '  return a + b', 'a + b'],
    ['its last line without the indentation', code, 'return a + b', 'a + b'],
    ['a short line', { prefix: 'a\nx = ', suffix: 'z' }, 'x = 5', '5'],
    [
      'the end of its last line',
      { prefix: 'the fox jumps over', suffix: 'z' },
      'jumps over it',
      ' it',
    ],
    ['the longest of two', { prefix: 'go, go, go, ', suffix: 'z' }, 'go, go, go, stop', 'stop'],
    ['all that repeats the prefix', { prefix: 'x = ', suffix: 'z' }, 'x = ', ''],
    ['the whole suffix', code, `a + b${code.suffix}`, 'a + b'],
    ['its first lines', { prefix: 'a', suffix: '\n  done()\n}\nmore' }, 'b\n  done()\n}', 'b'],
    ['its first line', { prefix: 'a\n', suffix: 'y = 2\nz' }, 'x = 1\ny = 2', 'x = 1\n'],
    ['an indented line', { prefix: 'a\n', suffix: 'y = 2\nz' }, 'x = 1\n  y = 2', 'x = 1\n  '],
    ['a part of its first line', { prefix: 'a', suffix: ' over the lazy dog' }, 'b over the', 'b'],
    ['the longest', { prefix: 'a', suffix: 'go, go, go, end' }, 'x go, go, go, ', 'x '],
    ['both', code, `${code.prefix}a + b${code.suffix}`, 'a + b'],
    [
      'lines that end with CRLF in the prefix',
      { prefix: 'f(\r\n  x, ', suffix: 'z' },
      'f(\n  x, y',
      'y',
    ],
    ['a code fence', code, '```\na + b\n```', 'a + b'],
    ['a code fence with a language', code, '```js\na + b\n```\n', 'a + b'],
    ['a code fence after a line break', code, '\n```js\na + b\n```', 'a + b'],
    ['what follows the fence', code, '```js\na + b\n```\nThis adds.', 'a + b'],
    ['a fence that is not closed', code, '```js\na + b', 'a + b'],
    ['a fence that a stop sequence cut', code, '```js', ''],
    ['an empty fence', code, '```\n```', ''],
    [
      'a fence, the prefix and the suffix',
      code,
      `\`\`\`js\n${code.prefix}1${code.suffix}\`\`\``,
      '1',
    ],
  ])('%s', (_, gap, answer, expected) => {
    expect(trimmed(gap, answer)).toBe(expected)
    // A second time there is nothing to cut off.
    expect(trimmed(gap, expected)).toBe(expected)
  })
})

describe('gapStages() passes on', () => {
  test.each<[string, Gap, string]>([
    ['a closing bracket', { prefix: 'f(g(', suffix: '))' }, 'x)'],
    ['closing lines', { prefix: 'a', suffix: '\n    }\n  }\n}\n' }, 'b {\n      c\n    }\n  }'],
    ['closing tags', { prefix: '<p>', suffix: '\n</div>\n</div>' }, 'x</p>\n</div>'],
    ['closing words', { prefix: 'if a', suffix: '\nend\nend' }, '\n  b\nend'],
    ['indentation', { prefix: 'def f():\n        ', suffix: '\n' }, '        return 1'],
    ['a short word that ends the prefix', { prefix: 'that is that', suffix: 'z' }, 'that was it'],
    ['a short word that begins the suffix', { prefix: 'a', suffix: ' the end' }, ' b the'],
    ['an earlier line of the prefix', code, 'import x'],
    [
      'a beginning of the suffix that more text follows',
      code,
      'a\n}\n\nexport { add'.concat('s }'),
    ],
    ['a fence in the middle', code, 'a\n```js\nb\n```'],
    ['backticks that are no fence', code, '```a``` and b'],
    ['a fence in Markdown', { prefix: '```js\na\n```\n', suffix: '\nz' }, '```js\nb\n```'],
    ['a fence before Markdown', { prefix: 'a', suffix: '\n```\nz\n```' }, '```js\nb\n```'],
    ['an opened fence in a fence', { prefix: '```js\nx = ', suffix: '\n' }, '```js\nb\n```'],
    ['an empty answer', code, ''],
    ['white space', code, ' \n '],
  ])('%s', (_, gap, answer) => {
    expect(trimmed(gap, answer)).toBe(answer)
  })
})

// Few letters, so that texts overlap, and the pieces of fences and lines.
const part = fc.constantFrom(
  'a',
  'b',
  'ab',
  'long enough ',
  ' ',
  '  ',
  '\n',
  '}',
  ')',
  '```',
  '```js\n',
  '\n```\n',
  '\r\n',
)
const texts = fc.array(part, { maxLength: 12 }).map((parts) => parts.join(''))
const gaps = fc.record({ prefix: texts, suffix: texts })
/** An answer made of what surrounds it, more or less. */
const answers = fc
  .tuple(gaps, texts, texts, fc.nat(30), fc.nat(30))
  .map(([gap, first, last, i, j]) => ({
    gap,
    answer: `${gap.prefix.slice(-i)}${first}\n${last}${gap.suffix.slice(0, j)}`,
  }))

/** The answer in pieces that end at the given places. */
const split = (answer: string, places: readonly number[]) => {
  const ends = [...places.map((place) => place % (answer.length + 1)), 0, answer.length]
  const sorted = ends.sort((a, b) => a - b)
  return sorted.slice(1).map((end, i) => answer.slice(sorted[i], end))
}

test('gapStages() gives the same text however the answer is split', () => {
  fc.assert(
    fc.property(answers, fc.array(fc.nat(100), { maxLength: 8 }), ({ gap, answer }, places) => {
      const whole = trimmed(gap, answer)
      expect(trickle(gap, split(answer, places)).join('')).toBe(whole)
      expect(trickle(gap, [...answer]).join('')).toBe(whole)
    }),
    { numRuns: 500 },
  )
})

test('gapStages() only cuts at the ends', () => {
  fc.assert(
    fc.property(answers, ({ gap, answer }) => {
      expect(answer).toContain(trimmed(gap, answer))
    }),
    { numRuns: 500 },
  )
})

test('gapStages() passes a text without overlaps unchanged', () => {
  const around = fc.string({ unit: fc.constantFrom('a', 'b', ' ', '\n', '`', ')') })
  const inside = fc.string({ unit: fc.constantFrom('x', 'y', ' ', '\n', '😀', ')') })
  fc.assert(
    fc.property(around, around, inside, (prefix, suffix, answer) => {
      expect(trimmed({ prefix, suffix }, answer)).toBe(answer)
    }),
  )
})

describe('gapStages() streams', () => {
  test('holds text back only while it may be a repetition', () => {
    const gap = { prefix: 'const total = ', suffix: '\nprint(total)' }
    expect(
      trickle(gap, ['con', 'cat(', 'a, b)', '\n', 'pr', 'oduct', '\nprint(', 'total)']),
    ).toEqual(['', 'concat(', 'a, b)', '', '', '\nproduct', '', '', ''])
  })

  test('holds a line break back in a code fence, as the closing line may follow', () => {
    expect(trickle(code, ['``', '`js', '\n', 'a', ' +\n', 'b', '\n``', '`'])).toEqual([
      '',
      '',
      '',
      'a',
      ' +',
      '\nb',
      '',
      '',
      '',
    ])
  })

  test('keeps its choices apart', () => {
    const trimmer = new Trimmer(() => gapStages({ prefix: 'x = ', suffix: '\ny' }), 2)
    const pieces = [text('x '), text('5', 1), text('= 4'), text('\n', 1)]
    expect(trimmer.add(pieces)).toEqual([text('5', 1), text('4')])
    expect(trimmer.rest()).toEqual([text('\n', 1)])
    expect(trimmer.rest()).toEqual([])
  })

  test('without a gap passes all deltas as they are', () => {
    const trimmer = new Trimmer(() => [], 1)
    const deltas = [text('')]
    expect(trimmer.add(deltas)).toBe(deltas)
    expect(trimmer.rest()).toEqual([])
  })

  test.each(['a', ')', ' ', '\n', 'ab', '`'])('takes little time for long texts of %j', (unit) => {
    const long = unit.repeat(20_000)
    const startedAt = performance.now()
    for (const answer of [long, `${long}x`]) {
      trickle({ prefix: `y\n${long}`, suffix: `${long}z` }, answer.match(/[\s\S]{1,4}/g) ?? [])
    }
    expect(performance.now() - startedAt).toBeLessThan(2000)
  })
})
