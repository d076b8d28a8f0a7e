// Only pages on listed origins and paths may be fetched, regardless of how their URL is spelled.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  type AddressOptions,
  canonicalAddressOf,
  lookupRefusalOf,
  readAddress,
  redirectRefusalOf,
  refusalOf,
} from '../../src/page/rules.ts'
import { cpuMs } from '../support/cpu.ts'

const defaults: AddressOptions = {
  origins: ['https://example.com', 'http://localhost:4000', 'http://10.0.0.1', 'https://[::1]'],
  paths: ['/posts/*', '/about', '/*.html'],
  own: new URL('https://edge.example.com/v1/completions'),
}

function judge(text: string, options: Partial<AddressOptions> = {}): string {
  const url = readAddress(text)
  if (url === null) return 'no URL'
  return refusalOf(url, { ...defaults, ...options }) === null ? 'allowed' : 'refused'
}

test.each([
  ['https://example.com/posts/a', 'https://example.com/posts/a'],
  ['HTTPS://EXAMPLE.com:443/posts/a?utm_source=x#top', 'https://example.com/posts/a'],
  ['https://example.com/posts/../posts/./a', 'https://example.com/posts/a'],
  ['https://example.com/posts/caf\u00e9', 'https://example.com/posts/caf%C3%A9'],
  // Equivalent spellings are normalised, so that they are not fetched and stored as another page.
  ['https://example.com/posts/%61%2Dcaf%c3%a9%7e', 'https://example.com/posts/a-caf%C3%A9~'],
  ['https://example.com/posts/a%21!', 'https://example.com/posts/a%21!'],
])('readAddress() normalises %s', (text, href) => {
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
])('readAddress() rejects %j', (text) => {
  expect(readAddress(text)).toBeNull()
})

describe('refusalOf()', () => {
  test('names the origin that is missing in "origins"', () => {
    const url = new URL('http://localhost:9102/posts/a')
    expect(refusalOf(url, defaults)).toBe('its origin http://localhost:9102 is not in "origins"')
  })

  test.each([
    ['another origin', 'https://evil.example/posts/a'],
    ['another scheme', 'http://example.com/posts/a'],
    ['another port', 'https://example.com:8443/posts/a'],
    ['a subdomain', 'https://www.example.com/posts/a'],
    ['a longer name', 'https://example.com.evil.example/posts/a'],
    ['a trailing dot', 'https://example.com./posts/a'],
    ['a user', 'https://me@example.com/posts/a'],
    ['a user that looks like the host', 'https://example.com@evil.example/posts/a'],
    ['a Cyrillic twin', 'https://ex\u0430mple.com/posts/a'],
    ['a punycode twin', 'https://xn--exmple-4nf.com/posts/a'],
    ['an unlisted path', 'https://example.com/admin'],
    ['a path below a listed one', 'https://example.com/about/us'],
    ['escaped dots', 'https://example.com/posts/%2e%2e/admin'],
    ['dots and an escaped slash', 'https://example.com/posts/..%2fadmin'],
    ['an escaped slash', 'https://example.com/posts%2Fa'],
    ['escapes that decode to escapes', 'https://example.com/posts/%%32e%%32e/posts/a'],
    ['an empty segment', 'https://example.com/posts//a'],
    ['an escaped NUL', 'https://example.com/posts/a%00.html'],
    ['an escaped line feed', 'https://example.com/posts/a%0a'],
    ['broken escapes', 'https://example.com/posts/%ff'],
    ['a path parameter after two dots', 'https://example.com/posts/..;/secret'],
    ['the same, escaped', 'https://example.com/posts/%2e%2e%3b/secret'],
    ['the same, with a value', 'https://example.com/posts/..;a=b/secret'],
    ['a path parameter after a name', 'https://example.com/posts/a;v=1'],
    ['a Greek question mark', 'https://example.com/posts/..%CD%BE/secret'],
    ['three dots', 'https://example.com/posts/.../secret'],
    ['a space and dots', 'https://example.com/posts/%20../secret'],
    ['dots and a colon', 'https://example.com/posts/..::$DATA/secret'],
    ['an overlong dot', 'https://example.com/posts/%c0%ae%c0%ae/secret'],
    ['IIS escapes', 'https://example.com/posts/%u002e%u002e/secret'],
    ['the same, escaped', 'https://example.com/posts/%25u002e%25u002e/secret'],
    ['fullwidth dots', 'https://example.com/posts/\uff0e\uff0e/secret'],
    ['a two dot leader', 'https://example.com/posts/\u2025/secret'],
    ['fullwidth slashes', 'https://example.com/posts/a\uff0f..\uff0f..\uff0fsecret'],
    ['fraction slashes', 'https://example.com/posts/a\u2044..\u2044..\u2044secret'],
    ['fullwidth backslashes', 'https://example.com/posts/a\uff3c..\uff3c..\uff3csecret'],
    ['a fullwidth percent', 'https://example.com/posts/\uff052e\uff052e/secret'],
    [
      'dots with an invisible character between them',
      'https://example.com/posts/.%E2%80%8B./secret',
    ],
    ['a segment with only an invisible character', 'https://example.com/posts/%E2%80%8B/a'],
    ['this machine', 'http://localhost:4000/posts/a'],
    ['an IPv4 address', 'http://10.0.0.1/posts/a'],
    ['an IPv4 address as a number', 'http://167772161/posts/a'],
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
    'https://example.com/posts/.well-known/x',
    'https://example.com/posts/caf\u00e9/e\u0301/\uc11c\uc6b8/\u2728',
    'https://example.com/posts/\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645',
    'https://example.com/posts/wait\u2026/1.2.3',
    'https://example.com/posts/a%20b,c=(d)&e@f!',
    'https://example.com/posts/100%25',
  ])('allows %s', (text) => {
    expect(judge(text)).toBe('allowed')
  })

  test('"*" in origins does not allow any page', () => {
    expect(judge('https://example.com/about', { origins: ['*'] })).toBe('refused')
  })

  test('allows localhost and IP addresses only for a local Worker, and only if listed', () => {
    const own = new URL('http://localhost:8787/')
    expect(judge('http://localhost:4000/about', { own })).toBe('allowed')
    expect(judge('http://10.0.0.1/about', { own })).toBe('allowed')
    expect(judge('http://localhost:4001/about', { own })).toBe('refused')
    expect(judge('http://127.0.0.1:4000/about', { own })).toBe('refused')
  })

  test('refuses the host of the Worker itself, even if it is listed', () => {
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
  ])('the pattern %s matches the path %s: %s', (pattern, path, expected) => {
    const verdict = judge(`https://example.com${path}`, { paths: [pattern] })
    expect(verdict).toBe(expected ? 'allowed' : 'refused')
  })

  test('matches a pattern with many wildcards in linear time', () => {
    const paths = [`/${'a*'.repeat(100)}b`]
    const judgeLong = () => judge(`https://example.com/${'a'.repeat(2000)}`, { paths })
    expect(judgeLong()).toBe('refused')
    expect(cpuMs(judgeLong)).toBeLessThan(100)
  })

  test('allows only listed origins and paths, regardless of how a server decodes the path', () => {
    const pieces = fc.constantFrom(
      ...['..', '.', '%2e', '%2E%2e', '%2f', '%5c', '\\', '/', '//', 'posts', 'admin', '@', ':'],
      ...['?', '#', 'example.com', 'evil.example', '%25', '%00', 'a', '\u0430', ';', '\t', ';a=b'],
      ...['%3b', '%253b', '%252e', '%252f', '%20', ' ', '%u002e', '%c0%ae', '%09', '%0d', '...'],
      ...['\uff0e', '\u2024', '\u2025', '\uff0f', '\u2044', '\u2215', '\uff3c', '\u2216'],
      ...['\uff1b', '\u037e', '\uff05', '\u200b', '%c2%ad', '\ufe52', '/..', '..;/', ';/..'],
    )
    let allowed = 0
    fc.assert(
      fc.property(fc.array(pieces, { maxLength: 12 }), (path) => {
        const text = `https://example.com/posts/${path.join('')}`
        for (const refusal of [refusalOf, lookupRefusalOf]) {
          const url = readAddress(text)
          if (url === null || refusal(url, { ...defaults, paths: ['/posts/*'] }) !== null) continue
          allowed += 1
          const { origin, pathname, search, username } = url
          expect(origin + username + search).toBe('https://example.com')
          for (const read of readings(pathname)) expect(read).toMatch(/^\/posts\/|^\/posts$/)
        }
      }),
      { numRuns: 5000 },
    )
    expect(allowed).toBeGreaterThan(100)
  })
})

/** All paths that a server, proxy or file system may read this one as. */
function readings(pathname: string): string[] {
  const steps: ((path: string) => string)[] = [
    (path) =>
      path.replaceAll(/%u([\da-f]{4})/gi, (_, code) => String.fromCharCode(parseInt(code, 16))),
    (path) => Buffer.from(path.replaceAll(/%([\da-f]{2})/gi, '%$1')).toString(),
    decoded,
    (path) => decoded(decoded(path)),
    (path) => path.normalize('NFKC'),
    (path) => path.replaceAll(/[\u200b\u00ad]/g, ''),
    (path) => path.replaceAll(/[\u2044\u2215]/g, '/').replaceAll('\u2216', '\\'),
    (path) => path.replaceAll('\\', '/'),
    (path) => path.replaceAll(/;[^/]*/g, ''),
    (path) => path.split('\0')[0] ?? '',
    (path) => path.replaceAll(/[. ]+(?=\/|$)/g, (dots) => (/^\.\.?$/.test(dots) ? dots : '')),
    (path) => path.replaceAll(/[\s:][^/]*(?=\/|$)/g, ''),
    (path) => path.replaceAll(/\/\s+/g, '/'),
    (path) => path.replaceAll(/\/{2,}/g, '/'),
  ]
  const read = new Set([pathname])
  for (const step of steps) for (const path of [...read]) read.add(step(path))
  return [...read].map(resolved)
}

function decoded(path: string): string {
  return path.replaceAll(/(?:%[\da-f]{2})+/gi, (codes) => {
    const bytes = Buffer.from(codes.replaceAll('%', ''), 'hex')
    // Overlong forms, which old decoders accept.
    return bytes
      .toString('latin1')
      .replaceAll(/\xc0([\x80-\xbf])/g, (_: string, low: string) =>
        String.fromCharCode(low.charCodeAt(0) & 0x3f),
      )
  })
}

function resolved(path: string): string {
  const segments: string[] = []
  for (const segment of path.split('/').slice(1)) {
    if (segment === '..') segments.pop()
    else if (segment !== '.') segments.push(segment)
  }
  return `/${segments.join('/')}`
}

describe('a page', () => {
  test.each([
    [['/x', '/x/', '/x/index.html', '/x/index.htm', '/x.html', '/x/index', '/x.html/']],
    [['/', '/index.html', '/index.htm', '/index', '']],
    [['/a/b', '/a/b/', '/a/b.html', '/a/b/index.html']],
    [['/caf%C3%A9', '/caf%c3%a9/', '/caf\u00e9.html', '/c%61f\u00e9/index.html']],
    // Browsers leave these characters as they are in location.href; many sitemaps escape them.
    [['/@me/a_(b),c', '/%40me/a_%28b%29%2Cc', '/%40me/a_%28b%29%2cc.html']],
    [["/it's:50+1=$2&|[x]!*", '/it%27s%3A50%2B1%3D%242%26%7C%5Bx%5D%21%2A/']],
  ])('has one name at each of %j', (paths) => {
    const names = paths.map((path) =>
      canonicalAddressOf(readAddress(`https://example.com${path}`) as URL),
    )
    expect(new Set(names).size).toBe(1)
  })

  test('does not share its name with another page', () => {
    const paths = [
      ...['/', '/x', '/X', '/x.htm', '/x.HTML', '/x/y', '/x-index', '/indexes', '/myindex'],
      ...['/.html', '/x/.html', '/html', '/x.html.txt', '/index.php', '/x%2F', '/a.b'],
      ...['/x%3F', '/x%23', '/x%25', '/x%2528', '/x(', '/x%20', '/x%5C', '/x%3B', '/x%00'],
    ]
    const names = paths.map((path) =>
      canonicalAddressOf(readAddress(`https://example.com${path}`) as URL),
    )
    expect(new Set(names).size).toBe(paths.length)
    expect(canonicalAddressOf(new URL('http://example.com/x'))).not.toBe(names[1])
  })

  test('can be looked up if one of its addresses is listed, but fetched only at a listed one', () => {
    const verdict = (path: string, paths: readonly string[]) => {
      const url = readAddress(`https://example.com${path}`) as URL
      const options = { ...defaults, paths }
      const found = lookupRefusalOf(url, options) === null
      return [found, refusalOf(url, options) === null]
    }
    expect(verdict('/guide/one', ['/guide/*.html'])).toEqual([true, false])
    expect(verdict('/guide/one.html', ['/guide/*.html'])).toEqual([true, true])
    expect(verdict('/about/', ['/about'])).toEqual([true, false])
    expect(verdict('/posts', ['/posts/*'])).toEqual([true, false])
    expect(verdict('/', ['/index.html'])).toEqual([true, false])
    expect(verdict('/about/us', ['/about'])).toEqual([false, false])
    expect(verdict('/posts/..;/about', ['/about', '/posts/*'])).toEqual([false, false])
  })

  test('may redirect from one of its addresses to another', () => {
    const options = { ...defaults, paths: ['/posts/*.html'] }
    const refusal = (from: string, to: string) =>
      redirectRefusalOf(
        new URL(from, 'https://example.com'),
        new URL(to, 'https://example.com'),
        options,
      )
    expect(refusal('/posts/a.html', '/posts/a')).toBeNull()
    expect(refusal('/posts/a.html', '/posts/a/')).toBeNull()
    expect(refusal('/posts/a.html', '/posts/b.html')).toBeNull()
    for (const to of [
      ...[
        '/posts/b',
        '/admin',
        '/posts/..;/admin.html',
        '/posts/a;/index.html',
        '/posts/a%2findex',
      ],
      ...['http://example.com/posts/a', 'https://evil.example/posts/a', '//me@example.com/posts/a'],
    ]) {
      expect(refusal('/posts/a.html', to), to).not.toBeNull()
    }
  })
})
