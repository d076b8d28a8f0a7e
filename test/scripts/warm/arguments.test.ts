// The command line: what it means, and what is said where it means nothing.
import { expect, test } from 'vitest'
import { parseArguments } from '../../../scripts/warm/arguments.ts'
import { parseList } from '../../../scripts/warm/list.ts'

const WORKER = 'https://w.example/'
const plain = { url: WORKER, concurrency: 4, dryRun: false }

test('a list, in any order', () => {
  const expected = { ...plain, source: { kind: 'list', file: 'p.json' } }
  expect(parseArguments(['p.json', '--url', 'https://w.example'])).toEqual(expected)
  expect(
    parseArguments(['--url=https://w.example', '--dry-run', 'p.json', '--concurrency', '9']),
  ).toEqual({ ...expected, concurrency: 9, dryRun: true })
})

test('a sitemap and a prompt', () => {
  const given = ['--sitemap', 'https://a.example/sitemap.xml', '--prompt', 'summary']
  const source = {
    kind: 'sitemap',
    sitemap: 'https://a.example/sitemap.xml',
    prompt: 'summary',
    variables: {},
  }
  expect(parseArguments([...given, '--url', WORKER])).toEqual({ ...plain, source })
  const more = ['--variable', 'language=English', '--variable=tone=a=b']
  expect(parseArguments([...given, '--url', WORKER, ...more]).source).toEqual({
    ...source,
    variables: { language: 'English', tone: 'a=b' },
  })
})

test.each([
  [[], /^Usage/],
  [['p.json'], /^Cannot use --url: expected an address/],
  [['--url', WORKER], /^Usage/],
  [['p.json', '--url', 'w.example'], /^Cannot use --url/],
  [['p.json', '--url', 'file:///x'], /^Cannot use --url/],
  [['p.json', '--url', 'https://user:secret@w.example'], /^Cannot use --url(?![\s\S]*secret)/],
  [['p.json', '--url'], /Usage/],
  [['p.json', 'q.json', '--url', WORKER], /^Usage/],
  [['p.json', '--url', WORKER, '--concurrency', '0'], /^Cannot use --concurrency/],
  [['p.json', '--url', WORKER, '--concurrency', '33'], /^Cannot use --concurrency/],
  [['p.json', '--url', WORKER, '--concurrency', 'x'], /^Cannot use --concurrency/],
  [['p.json', '--url', WORKER, '--what'], /'--what'[\s\S]*Usage/],
  [['p.json', '--url', WORKER, '--prompt', 'x'], /without --sitemap/],
  [['p.json', '--url', WORKER, '--variable', 'a=b'], /without --sitemap/],
  [['--url', WORKER, '--sitemap', 'https://a.example/s.xml'], /without --prompt/],
  [['--url', WORKER, '--sitemap', 's.xml', '--prompt', 'x'], /^Cannot use --sitemap: expected/],
  [['p.json', '--url', WORKER, '--sitemap', WORKER, '--prompt', 'x'], /^Cannot use "p.json" with/],
  [
    ['--url', WORKER, '--sitemap', WORKER, '--prompt', 'x', '--variable', 'language'],
    /^Cannot use --variable "language": expected name=value/,
  ],
])('%j is refused in words', (given, said) => {
  expect(() => parseArguments(given)).toThrow(said)
})

const list = (text: string) => parseList(new TextEncoder().encode(text))

test('parseList() takes bodies and strings, and says which item is neither', () => {
  expect(list('["a", {"prompt": {"id": "haiku"}}, {}]')).toEqual([
    { name: '#0 "a"', request: { prompt: 'a' } },
    { name: '#1 {"id":"haiku"}', request: { prompt: { id: 'haiku' } } },
    { name: '#2 no prompt', request: {} },
  ])
  expect(list(JSON.stringify(['x'.repeat(200)]))[0]?.name.length).toBeLessThan(70)
  expect(() => list('["a", 1]')).toThrow('Cannot use item 1')
  expect(() => list('[["a"]]')).toThrow('Cannot use item 0')
  expect(() => list('{}')).toThrow('expected a JSON array')
  expect(() => list('[')).toThrow('no JSON')
})

test('parseList() reads what Windows writes: a byte order mark, and UTF-16', () => {
  const tasks = [{ name: '#0 "é"', request: { prompt: 'é' } }]
  const text = '\ufeff["é"]\r\n'
  expect(list(text)).toEqual(tasks)
  const utf16 = Buffer.from(text, 'utf16le')
  expect(parseList(utf16)).toEqual(tasks)
  expect(parseList(Buffer.from(utf16).swap16())).toEqual(tasks)
  expect(() => list('["a"]\ufeff')).toThrow('no JSON')
  expect(() => parseList(Buffer.from('["é"]', 'latin1'))).toThrow('it is no UTF-8')
})
