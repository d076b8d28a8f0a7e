// The command line and the lists of `npm run warm`: what they mean, and the messages when invalid.
import { expect, test } from 'vitest'
import { parseArguments } from '../../../scripts/warm/arguments.ts'
import { parseList } from '../../../scripts/warm/list.ts'

const WORKER = 'https://w.example/'
const plain = { url: WORKER, concurrency: 4, dryRun: false, out: null }

test('parseArguments() takes a list and options in any order', () => {
  const expected = { ...plain, source: { kind: 'list', file: 'p.json' } }
  expect(parseArguments(['p.json', '--url', 'https://w.example'])).toEqual(expected)
  expect(
    parseArguments(['--url=https://w.example', '--dry-run', 'p.json', '--concurrency', '9']),
  ).toEqual({ ...expected, concurrency: 9, dryRun: true })
})

test('parseArguments() takes a sitemap, a prompt and variables', () => {
  const args = ['--sitemap', 'https://a.example/sitemap.xml', '--prompt', 'summary']
  const source = {
    kind: 'sitemap',
    sitemap: 'https://a.example/sitemap.xml',
    prompt: 'summary',
    variables: {},
  }
  expect(parseArguments([...args, '--url', WORKER])).toEqual({ ...plain, source })
  const more = ['--variable', 'language=English', '--variable=tone=a=b']
  expect(parseArguments([...args, '--url', WORKER, ...more])?.source).toEqual({
    ...source,
    variables: { language: 'English', tone: 'a=b' },
  })
})

test('parseArguments() takes a file for the summaries of a sitemap', () => {
  const args = ['--sitemap', WORKER, '--prompt', 'summary', '--url', WORKER, '--out', 's.json']
  expect(parseArguments(args)?.out).toBe('s.json')
})

test('parseArguments() returns null for --help, with or without other options', () => {
  expect(parseArguments(['--help'])).toBeNull()
  expect(parseArguments(['p.json', '--help'])).toBeNull()
})

test.each([
  [[], /^Cannot warm: expected one list or --sitemap\n\nUsage/],
  [['p.json', '--url', WORKER, '--out', 's.json'], /^Cannot use --out without --sitemap/],
  [
    ['--sitemap', WORKER, '--prompt', 'x', '--url', WORKER, '--out', 's.json', '--dry-run'],
    /^Cannot use --out .* with --dry-run/,
  ],
  [['p.json'], /^Cannot use --url: expected an address/],
  [['--url', WORKER], /^Cannot warm: expected one list/],
  [['p.json', '--url', 'w.example'], /^Cannot use --url/],
  [['p.json', '--url', 'file:///x'], /^Cannot use --url/],
  [['p.json', '--url', 'https://user:secret@w.example'], /^Cannot use --url(?![\s\S]*secret)/],
  [['p.json', '--url'], /Usage/],
  [['p.json', 'q.json', '--url', WORKER], /^Cannot warm: expected one list/],
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
])('parseArguments() refuses %j with a message', (args, message) => {
  expect(() => parseArguments(args)).toThrow(message)
})

const list = (text: string) => parseList(new TextEncoder().encode(text))

test('parseList() takes request bodies and strings, and reports an item that is neither', () => {
  expect(list('["a", {"prompt": {"id": "haiku"}}, {}]')).toEqual([
    { name: '#1 "a"', request: { prompt: 'a' } },
    { name: '#2 {"id":"haiku"}', request: { prompt: { id: 'haiku' } } },
    { name: '#3 no prompt', request: {} },
  ])
  expect(list(JSON.stringify(['x'.repeat(200)]))[0]?.name.length).toBeLessThan(70)
  expect(() => list('["a", 1]')).toThrow('Cannot use item 2:')
  expect(() => list('[["a"]]')).toThrow('Cannot use item 1:')
  expect(() => list('{}')).toThrow('expected a JSON array')
  expect(() => list('[')).toThrow('invalid JSON')
})

test('parseList() reads files with a byte order mark or in UTF-16, as Windows writes them', () => {
  const tasks = [{ name: '#1 "é"', request: { prompt: 'é' } }]
  const text = '\ufeff["é"]\r\n'
  expect(list(text)).toEqual(tasks)
  const utf16 = Buffer.from(text, 'utf16le')
  expect(parseList(utf16)).toEqual(tasks)
  expect(parseList(Buffer.from(utf16).swap16())).toEqual(tasks)
  expect(() => list('["a"]\ufeff')).toThrow('invalid JSON')
  expect(() => parseList(Buffer.from('["é"]', 'latin1'))).toThrow('invalid UTF-8')
})
