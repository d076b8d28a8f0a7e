// Which pages may be read: only those of listed origins and paths, however their URL is spelled.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type AddressOptions, readAddress, refusalOf } from '../../src/page/address.ts'

const given: AddressOptions = {
  origins: ['https://example.com', 'http://localhost:4000', 'http://10.0.0.1', 'https://[::1]'],
  paths: ['/posts/*', '/about', '/*.html'],
  own: new URL('https://edge.example.com/v1/completions'),
}

function judge(text: string, options: Partial<AddressOptions> = {}): string {
  const url = readAddress(text)
  if (url === null) return 'no URL'
  return refusalOf(url, { ...given, ...options }) === null ? 'allowed' : 'refused'
}

test.each([
  ['https://example.com/posts/a', 'https://example.com/posts/a'],
  ['HTTPS://EXAMPLE.com:443/posts/a?utm_source=x#top', 'https://example.com/posts/a'],
  ['https://example.com/posts/../posts/./a', 'https://example.com/posts/a'],
  ['https://example.com/posts/caf\u00e9', 'https://example.com/posts/caf%C3%A9'],
  // Spelled otherwise it is the same page, not one more to be fetched and kept.
  ['https://example.com/posts/%61%2Dcaf%c3%a9%7e', 'https://example.com/posts/a-caf%C3%A9~'],
  ['https://example.com/posts/a%21!', 'https://example.com/posts/a%21!'],
])('readAddress() of %s names the page', (text, href) => {
  expect(readAddress(text)?.href).toBe(href)
  expect(judge(text)).toBe('allowed')
})

test.each([
  '',
  '/posts/a',
  '//example.com/posts/a',
  'example.com/posts/a',
  'https:/example.com/posts/a',
  'https:///example.com/posts/a',
  'https:example.com/posts/a',
  ' https://example.com/posts/a',
  'https://example.com/posts/a\n',
  'https://exa\tmple.com/posts/a',
  'https:\\\\example.com\\posts\\a',
  'https://example.com\\@evil.example/posts/a',
  'ftp://example.com/posts/a',
  'file:///etc/passwd',
  'data:text/plain,hello',
  'javascript:alert(1)',
  'https://',
  'https://exa mple.com/',
  `https://example.com/posts/${'a'.repeat(2048)}`,
])('readAddress() of %j is none', (text) => {
  expect(readAddress(text)).toBeNull()
})

describe('refusalOf()', () => {
  test.each([
    ['another origin', 'https://evil.example/posts/a'],
    ['another scheme', 'http://example.com/posts/a'],
    ['another port', 'https://example.com:8443/posts/a'],
    ['a subdomain', 'https://www.example.com/posts/a'],
    ['a longer name', 'https://example.com.evil.example/posts/a'],
    ['a name that ends alike', 'https://notexample.com/posts/a'],
    ['a trailing dot', 'https://example.com./posts/a'],
    ['a user', 'https://me@example.com/posts/a'],
    ['a user that looks like the host', 'https://example.com@evil.example/posts/a'],
    ['user and password', 'https://me:secret@example.com/posts/a'],
    ['a Cyrillic twin', 'https://ex\u0430mple.com/posts/a'],
    ['a punycode twin', 'https://xn--exmple-4nf.com/posts/a'],
    ['a path outside', 'https://example.com/admin'],
    ['a path that is longer', 'https://example.com/about/us'],
    ['a path out of the folder', 'https://example.com/posts/../admin'],
    ['the same, escaped', 'https://example.com/posts/%2e%2e/admin'],
    ['the same, half escaped', 'https://example.com/posts/.%2E/admin'],
    ['the same, with an escaped slash', 'https://example.com/posts/..%2fadmin'],
    ['the same, with an escaped backslash', 'https://example.com/posts/..%5cadmin'],
    ['a slash that is one segment to a server', 'https://example.com/posts%2Fa'],
    ['the same, escaped twice', 'https://example.com/posts/%252e%252e%252fadmin'],
    ['codes that become codes', 'https://example.com/posts/%%32e%%32e/posts/a'],
    ['an empty segment', 'https://example.com/posts//a'],
    ['an escaped NUL', 'https://example.com/posts/a%00.html'],
    ['an escaped line feed', 'https://example.com/posts/a%0a'],
    ['broken escapes', 'https://example.com/posts/%ff'],
    ['half an escape', 'https://example.com/posts/%e'],
    ['this machine', 'http://localhost:4000/posts/a'],
    ['an address', 'http://10.0.0.1/posts/a'],
    ['an address as a number', 'http://167772161/posts/a'],
    ['an address in hex', 'http://0x0a.0.0.1/posts/a'],
    ['an IPv6 address', 'https://[::1]/posts/a'],
  ])('refuses %s', (_, text) => {
    expect(judge(text)).toBe('refused')
  })

  test.each([
    'https://example.com/about',
    'https://example.com/posts/',
    'https://example.com/posts/a/b/c',
    'https://example.com/index.html',
    'https://example.com/x/y.html',
    'https://example.com/%61bout',
  ])('allows %s', (text) => {
    expect(judge(text)).toBe('allowed')
  })

  test('"*" in origins allows no page', () => {
    expect(judge('https://example.com/about', { origins: ['*'] })).toBe('refused')
  })

  test('this machine and addresses are for a Worker on this machine, and only where listed', () => {
    const own = new URL('http://localhost:8787/')
    expect(judge('http://localhost:4000/about', { own })).toBe('allowed')
    expect(judge('http://10.0.0.1/about', { own })).toBe('allowed')
    expect(judge('http://localhost:4001/about', { own })).toBe('refused')
    expect(judge('http://127.0.0.1:4000/about', { own })).toBe('refused')
  })

  test('never the host the Worker is called on, however it is listed', () => {
    const own = new URL('https://example.com/v1/completions')
    expect(judge('https://example.com/about', { own })).toBe('refused')
    const local = new URL('http://localhost:4000/')
    expect(judge('http://localhost:4000/about', { own: local })).toBe('refused')
  })

  test.each([
    ['/*', '/anything/at/all', true],
    ['*', '/a', true],
    ['/a*b*c', '/abc', true],
    ['/a*b*c', '/aXbXc', true],
    ['/a*b*c', '/aXcXb', false],
    ['/ab*bc', '/abc', false],
    ['/a**', '/a', true],
    ['/a.b', '/aXb', false],
    ['/caf\u00e9/*', '/caf%C3%A9/x', true],
    ['/a', '/a/', false],
  ])('the pattern %s and the path %s: %s', (pattern, path, expected) => {
    const verdict = judge(`https://example.com${path}`, { paths: [pattern] })
    expect(verdict).toBe(expected ? 'allowed' : 'refused')
  })

  test('no pattern is slow', () => {
    const startedAt = performance.now()
    const paths = [`/${'a*'.repeat(100)}b`]
    expect(judge(`https://example.com/${'a'.repeat(2000)}`, { paths })).toBe('refused')
    expect(performance.now() - startedAt).toBeLessThan(100)
  })

  test('whatever is allowed is on a listed origin and below a listed path', () => {
    const pieces = fc.constantFrom(
      ...['..', '.', '%2e', '%2f', '%5c', '\\', '/', '//', 'posts', 'admin', '@', ':', '?', '#'],
      ...['example.com', 'evil.example', '%25', '%00', 'a', '\u0430', ';', '\t'],
    )
    fc.assert(
      fc.property(fc.array(pieces, { maxLength: 12 }), (path) => {
        const text = `https://example.com/posts/${path.join('')}`
        if (judge(text, { paths: ['/posts/*'] }) !== 'allowed') return
        const { origin, pathname, search, username } = readAddress(text) ?? new URL('x:')
        expect(origin + username + search).toBe('https://example.com')
        expect(pathname).toMatch(/^\/posts\//)
        expect(decodeURIComponent(pathname)).not.toMatch(/\\|\/\.{1,2}(\/|$)|\/\//)
      }),
      { numRuns: 2000 },
    )
  })
})
