// The command line of `npm run index`: what it means, and the messages when invalid.
import { expect, test } from 'vitest'
import { parseArguments } from '../../../scripts/index/arguments.ts'

const WORKER = 'https://w.example/'
const SITEMAP = 'https://a.example/sitemap.xml'

test('parseArguments() takes a sitemap, pages and options in any order', () => {
  expect(parseArguments(['--sitemap', SITEMAP, '--url', 'https://w.example'])).toEqual({
    url: WORKER,
    sitemap: SITEMAP,
    pages: [],
    questions: null,
    keep: false,
    dryRun: false,
    concurrency: 4,
  })
  const more = ['--keep', '--dry-run', '--questions', 'q', '--concurrency', '9']
  expect(parseArguments(['https://a.example/b#c', ...more, '--url', WORKER])).toEqual({
    url: WORKER,
    sitemap: null,
    pages: [new URL('https://a.example/b')],
    questions: 'q',
    keep: true,
    dryRun: true,
    concurrency: 9,
  })
})

test('parseArguments() returns null for --help, with or without other options', () => {
  expect(parseArguments(['--help'])).toBeNull()
  expect(parseArguments(['--sitemap', SITEMAP, '--help'])).toBeNull()
})

test.each([
  [[], /^Cannot index without --sitemap or the address of a page\n\nUsage/],
  [['--url', WORKER], /^Cannot index without --sitemap/],
  [['--sitemap', SITEMAP], /^Cannot use --url: expected an address/],
  [['--sitemap', 's.xml', '--url', WORKER], /^Cannot use --sitemap/],
  [['--sitemap', SITEMAP, '--url', 'https://u:secret@w.example'], /--url(?![\s\S]*secret)/],
  [['--sitemap', SITEMAP, '--url', WORKER, '--concurrency', '0'], /^Cannot use --concurrency/],
  [['--sitemap', SITEMAP, '--url', WORKER, '--questions', ''], /^Cannot use --questions/],
  [['--sitemap', SITEMAP, '--url', WORKER, '--prompt', 'x'], /'--prompt'[\s\S]*Usage/],
  [['page.html', '--url', WORKER], /^Cannot use "page.html": expected the address of a page/],
  [['https://a.example/?page=2', '--url', WORKER], /^Cannot use "https:\/\/a.example\/\?page=2"/],
])('parseArguments() refuses %j with a message', (args, message) => {
  expect(() => parseArguments(args)).toThrow(message)
})
