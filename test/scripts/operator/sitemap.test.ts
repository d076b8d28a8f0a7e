// Sitemaps as sites serve them, over real connections: which are read, and the limits.
import type { ServerResponse } from 'node:http'
import { gzipSync } from 'node:zlib'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { readSitemap } from '../../../scripts/operator/sitemap.ts'
import { cpuMsUntil } from '../../support/cpu.ts'
import { type SiteFile, SiteServer } from '../../support/site-server.ts'

let server: SiteServer
let other: SiteServer
let files: SiteServer['files']
let site: string

beforeAll(async () => {
  server = await SiteServer.start()
  files = server.files
  site = server.origin
  other = await SiteServer.start()
  other.files.set('/s.xml', urlset('https://other.example/a'))
})

afterAll(() => {
  server.stop()
  other.stop()
})

beforeEach(() => {
  files.clear()
  server.requests.length = 0
})

const NAMESPACE = 'xmlns="http://www.sitemaps.org/schemas/sitemap/0.9"'
const loc = (url: string) => `<loc>${url}</loc>`
const urlset = (...urls: string[]) =>
  `<?xml version="1.0" encoding="UTF-8"?>\n<urlset ${NAMESPACE}>${urls
    .map((url) => `<url>${loc(url)}<lastmod>2026-11-01</lastmod></url>`)
    .join('\n')}</urlset>`
const index = (...urls: string[]) =>
  `<sitemapindex ${NAMESPACE}>${urls.map((url) => `<sitemap>${loc(url)}</sitemap>`).join('')}</sitemapindex>`

const read = async (path = '/sitemap.xml', limits = {}) =>
  await readSitemap(`${site}${path}`, fetch, limits)

const [a, b] = ['https://a.example/a', 'https://a.example/b']
const entry = (url: string, prefix = '') =>
  `<${prefix}url><${prefix}loc>${url}</${prefix}loc></${prefix}url>`
const utf16 = (text: string) => Buffer.from(`\ufeff${text}`, 'utf16le')

test.each<readonly [string, string | Buffer, string[]]>([
  ['a blank line before the declaration', `\n${urlset(a)}\n`, [a]],
  ['a byte order mark', `\ufeff${urlset(a)}`, [a]],
  ['UTF-16', utf16(urlset(a).replace('UTF-8', 'UTF-16')), [a]],
  ['UTF-16, big-endian', utf16(urlset(a)).swap16(), [a]],
  [
    'the encoding of the declaration',
    Buffer.from(urlset('https://a.example/é').replace('UTF-8', 'ISO-8859-1'), 'latin1'),
    ['https://a.example/é'],
  ],
  [
    'a prefix on the children',
    `<urlset ${NAMESPACE} ${NAMESPACE.replace('=', ':s=')}>${entry(a, 's:')}</urlset>`,
    [a],
  ],
  [
    'a prefix declared on the element that uses it',
    `<urlset ${NAMESPACE}><s:url ${NAMESPACE.replace('=', ':s=')}><s:loc>${a}</s:loc></s:url><url><t:loc ${NAMESPACE.replace('=', ':t=')}>${b}</t:loc></url></urlset>`,
    [a, b],
  ],
  [
    'a namespace redeclared on the children',
    `<s:urlset ${NAMESPACE.replace('=', ':s=')}><url ${NAMESPACE}><loc>${a}</loc></url></s:urlset>`,
    [a],
  ],
  ['an undeclared prefix', `<s:urlset>${entry(a, 's:')}</s:urlset>`, [a]],
  ['no namespace', `<urlset>${entry(a)}</urlset>`, [a]],
  [
    'an older namespace',
    `<urlset xmlns="http://www.google.com/schemas/sitemap/0.84">${entry(a)}</urlset>`,
    [a],
  ],
  [
    'image locations, which are ignored',
    `<urlset ${NAMESPACE} xmlns:image="i"><url><image:image><image:loc>${b}</image:loc></image:image><image:loc>${b}</image:loc><loc>${a}</loc></url></urlset>`,
    [a],
  ],
  [
    'a prefix redeclared for another namespace',
    `<s:urlset ${NAMESPACE.replace('=', ':s=')}><s:url><s:loc xmlns:s="i">${b}</s:loc><s:loc>${a}</s:loc></s:url></s:urlset>`,
    [a],
  ],
  [
    'CDATA and white space',
    `<urlset ${NAMESPACE}>${entry(`<![CDATA[${a}]]>`)}${entry(`\n ${b}\n `)}</urlset>`,
    [a, b],
  ],
  [
    'character references',
    urlset('https://a.example/?a=1&amp;b=%20&#x26;c'),
    ['https://a.example/?a=1&b=%20&c'],
  ],
  [
    'comments, which may split an address',
    `<urlset><!-- ${entry(b)} -->${entry('https://a.<!-- no -->example/a')}</urlset>`,
    [a],
  ],
  ['an entry without an address', `<urlset><url><lastmod>2026-11-01</lastmod></url></urlset>`, []],
  ['an empty sitemap', `<urlset ${NAMESPACE}/>`, []],
  ['a duplicate address', urlset(a, b, a), [a, b]],
  ['gzip without a .gz name', gzipSync(`\n${urlset(a)}`), [a]],
  ['plain text with a byte order mark', `\ufeff\n${a}\r\n\r\n  ${b}  `, [a, b]],
  ['plain text in UTF-16', utf16(`${a}\r\n${b}`), [a, b]],
])('reads %s', async (_, file, pages) => {
  files.set('/sitemap.xml', file)
  expect(await read()).toMatchObject({ pages, skipped: [], unread: [] })
})

test('reads a gzipped file that is sent with Content-Encoding: gzip', async () => {
  files.set('/sitemap.xml', (response) => {
    response.setHeader('content-encoding', 'gzip')
    response.end(gzipSync(gzipSync(urlset(a))))
  })
  expect((await read()).pages).toEqual([a])
})

test('skips relative and empty addresses, and suggests the absolute one', async () => {
  const relative = (absolute: string) =>
    `it is relative, but a sitemap requires absolute addresses; write ${absolute}`
  files.set(
    '/maps/s.xml',
    urlset('/posts/1', 'posts/2', '//b.example/3', 'a.example/4', '', ' ', a),
  )
  expect(await read('/maps/s.xml')).toEqual({
    origin: site,
    pages: [a],
    skipped: [
      { url: '/posts/1', reason: relative(`${site}/posts/1`) },
      { url: 'posts/2', reason: relative(`${site}/maps/posts/2`) },
      { url: '//b.example/3', reason: relative('http://b.example/3') },
      { url: 'a.example/4', reason: relative(`${site}/maps/a.example/4`) },
      { url: `${site}/maps/s.xml`, reason: 'it has an empty <loc>' },
      { url: `${site}/maps/s.xml`, reason: 'it has an empty <loc>' },
    ],
    unread: [],
  })
  files.set('/lines.txt', `${a}\n/posts/1\n`)
  expect(await read('/lines.txt')).toMatchObject({
    pages: [a],
    skipped: [{ url: '/posts/1', reason: relative(`${site}/posts/1`) }],
  })
  files.set('/index.xml', index('/maps/s.xml', `${site}/lines.txt`))
  expect((await read('/index.xml')).skipped[0]).toEqual({
    url: '/maps/s.xml',
    reason: relative(`${site}/maps/s.xml`),
  })
})

test('reads many namespaces in linear time', async () => {
  const prefixes = Array.from({ length: 10_000 }, (_, i) => `xmlns:p${i}="x"`).join(' ')
  const url = `<url xmlns:q="x">${loc(a)}</url>`
  files.set('/sitemap.xml', `<urlset ${prefixes}>${url.repeat(3000)}</urlset>`)
  expect(await cpuMsUntil(read)).toBeLessThan(2500)
  expect((await read()).pages).toEqual([a])
})

test('reports the unreadable sitemaps of an index and reads the others', async () => {
  const names = ['gone', 'page', 'good', 'deep']
  files.set('/index.xml', index(...names.map((name) => `${site}/${name}`)))
  files.set('/page', '<!doctype html><p>Not found<br></p>')
  files.set('/good', urlset(a))
  files.set('/deep', index(`${site}/gone-too`, `${site}/good-too`))
  files.set('/good-too', urlset(b))
  expect(await read('/index.xml')).toEqual({
    origin: site,
    pages: [a, b],
    skipped: [],
    unread: [
      { url: `${site}/gone`, reason: 'the site returned 404' },
      { url: `${site}/page`, reason: expect.stringContaining('invalid XML') },
      { url: `${site}/gone-too`, reason: 'the site returned 404' },
    ],
  })
})

test('follows indexes, nested or gzipped, and reads no sitemap twice', async () => {
  files.set('/sitemap.xml', index(`${site}/a.xml.gz`, `${site}/more.xml`, `${site}/sitemap.xml`))
  files.set('/a.xml.gz', gzipSync(urlset('https://a.example/1')))
  files.set('/more.xml', index(`${site}/b.xml`, `${site}/a.xml.gz`))
  files.set('/b.xml', (response) => {
    response.setHeader('content-encoding', 'gzip')
    response.end(gzipSync(urlset('https://a.example/2')))
  })
  expect((await read()).pages).toEqual(['https://a.example/1', 'https://a.example/2'])
  const paths = server.requests.map(({ path }) => path)
  expect(paths).toEqual(['/sitemap.xml', '/a.xml.gz', '/more.xml', '/b.xml'])
})

test('skips sitemaps of another origin, but follows a redirect of the first one', async () => {
  const elsewhere = other.origin
  const redirect = (to: string) => (response: ServerResponse) =>
    response.writeHead(301, { location: to }).end()
  files.set('/old.xml', redirect('/sitemap.xml'))
  files.set(
    '/sitemap.xml',
    index(`${elsewhere}/s.xml`, 'b.xml', `${site}/away.xml`, `${site}/c.xml`),
  )
  files.set('/away.xml', redirect(`${elsewhere}/s.xml`))
  files.set('/c.xml', urlset('https://a.example/1'))
  const { pages, skipped } = await read('/old.xml')
  expect(pages).toEqual(['https://a.example/1'])
  const reason = `the origin of this sitemap is not ${site}`
  expect(skipped).toEqual([
    { url: `${elsewhere}/s.xml`, reason },
    {
      url: 'b.xml',
      reason: `it is relative, but a sitemap requires absolute addresses; write ${site}/b.xml`,
    },
    { url: `${site}/away.xml`, reason },
  ])
  // The whole site has moved to another origin.
  files.set('/moved.xml', redirect(`${elsewhere}/s.xml`))
  expect(await read('/moved.xml')).toMatchObject({
    origin: elsewhere,
    pages: ['https://other.example/a'],
  })
})

describe('throws an error for', () => {
  const bomb = () => {
    const entities = Array.from({ length: 20 }, (_, i) => `<!ENTITY e${i + 1} "&e${i};&e${i};">`)
    return `<!DOCTYPE urlset [<!ENTITY e0 "x">${entities.join('')}]><urlset><url><loc>&e20;</loc></url></urlset>`
  }
  test.each<readonly [string, SiteFile | null, string]>([
    ['a missing file', null, 'the site returned 404'],
    [
      'an HTML page',
      '<html><body>Hello</body></html>',
      'expected <urlset> or <sitemapindex>, got <html>',
    ],
    ['an unknown root element', '<myurlset/>', 'got <myurlset>'],
    ['a feed', '<feed><entry/></feed>', 'got <feed>'],
    ['truncated XML', '<urlset>\n<url>', 'invalid XML at line 2'],
    ['the same after blank lines', '\n\n<?xml version="1.0"?>\n<urlset>\n<url>', 'at line 5'],
    ['HTML that is not XML', '<!doctype html><p>Hello<br></p>', 'invalid XML'],
    ['JSON', '{"error":1}', 'expected XML or one address per line'],
    ['an empty file', '', 'expected XML or one address per line'],
    ['broken gzip', gzipSync('x'.repeat(999)).subarray(0, 20), 'invalid gzip data'],
    ['an undeclared charset', Buffer.from('<urlset>é</urlset>', 'latin1'), 'invalid UTF-8'],
    ['an entity bomb', bomb(), 'invalid XML'],
    [
      'an external entity',
      '<!DOCTYPE u [<!ENTITY f SYSTEM "file:///etc/passwd">]><urlset><url><loc>&f;</loc></url></urlset>',
      'invalid XML',
    ],
    ['deeply nested elements', '<a>'.repeat(200_000), 'invalid XML'],
    ['a broken connection', (response) => void response.destroy(), 'no response'],
    [
      'an incomplete response',
      (response) => {
        response.writeHead(200, { 'content-length': '100' })
        response.write('<urlset>', () => response.destroy())
      },
      'no response',
    ],
  ])('%s', async (_, file, message) => {
    if (file !== null) files.set('/sitemap.xml', file)
    const failure = await read().catch((error: Error) => error.message)
    expect(failure).toMatch(/^Cannot read the sitemap http:\/\/127\.0\.0\.1:\d+\/sitemap\.xml: /)
    expect(failure).toContain(message)
  })
})

describe('limits', () => {
  test('the number of pages', async () => {
    files.set('/sitemap.xml', urlset('https://a.example/1', 'https://a.example/2'))
    expect((await read('/sitemap.xml', { pages: 2 })).pages).toHaveLength(2)
    await expect(read('/sitemap.xml', { pages: 1 })).rejects.toThrow('more than 1 pages in total')
  })

  test('the number of sitemaps', async () => {
    files.set('/sitemap.xml', index(`${site}/a.xml`, `${site}/b.xml`))
    for (const name of ['/a.xml', '/b.xml']) files.set(name, urlset('https://a.example/1'))
    expect((await read('/sitemap.xml', { sitemaps: 3 })).pages).toHaveLength(1)
    await expect(read('/sitemap.xml', { sitemaps: 2 })).rejects.toThrow('more than 2 sitemaps')
  })

  test('the nesting of indexes', async () => {
    for (let i = 0; i < 5; i += 1) files.set(`/${i}.xml`, index(`${site}/${i + 1}.xml`))
    files.set('/5.xml', urlset('https://a.example/1'))
    expect((await read('/0.xml', { depth: 5 })).pages).toHaveLength(1)
    await expect(read('/0.xml', { depth: 4 })).rejects.toThrow('nested more than 4 deep')
  })

  test('the total size of all sitemaps, before and after decompression', async () => {
    const text = urlset('https://a.example/1')
    files.set('/sitemap.xml', text)
    expect((await read('/sitemap.xml', { bytes: text.length })).pages).toHaveLength(1)
    await expect(read('/sitemap.xml', { bytes: text.length - 1 })).rejects.toThrow('bytes in total')
    const index1 = index(`${site}/a.xml`, `${site}/b.xml`)
    files.set('/index.xml', index1)
    for (const name of ['/a.xml', '/b.xml']) files.set(name, text)
    const bytes = index1.length + text.length * 2
    expect((await read('/index.xml', { bytes })).pages).toHaveLength(1)
    await expect(read('/index.xml', { bytes: bytes - 1 })).rejects.toThrow('bytes in total')
    files.set('/bomb.xml.gz', gzipSync(Buffer.alloc(30_000_000, ' ')))
    await expect(read('/bomb.xml.gz', { bytes: 1_000_000 })).rejects.toThrow('bytes in total')
  })

  test('the tags and attributes of all sitemaps, which are not parsed then', async () => {
    const text = urlset('https://a.example/1')
    const marks = text.match(/[<=&]/g)?.length ?? 0
    for (const name of ['/a.xml', '/b.xml']) files.set(name, text)
    const index1 = index(`${site}/a.xml`, `${site}/b.xml`)
    files.set('/sitemap.xml', index1)
    const all = marks * 2 + (index1.match(/[<=&]/g)?.length ?? 0)
    expect((await read('/sitemap.xml', { marks: all })).pages).toHaveLength(1)
    await expect(read('/sitemap.xml', { marks: all - 1 })).rejects.toThrow('tags and attributes')
    files.set('/bomb.xml', gzipSync(`<urlset>${'<a/>'.repeat(3_000_000)}</urlset>`))
    await expect(read('/bomb.xml')).rejects.toThrow(
      'more than 2000000 tags and attributes in total',
    )
  })

  test('the size of an endless response, whose connection is closed', async () => {
    let isClosed = false
    files.set('/sitemap.xml', (response) => {
      const timer = setInterval(() => response.write(' '.repeat(10_000)), 1)
      response.on('close', () => {
        clearInterval(timer)
        isClosed = true
      })
    })
    await expect(read('/sitemap.xml', { bytes: 100_000 })).rejects.toThrow('bytes in total')
    await expect.poll(() => isClosed).toBe(true)
  })

  test('the time to read a sitemap', async () => {
    files.set('/sitemap.xml', (response) => void response.write('<urlset>'))
    await expect(read('/sitemap.xml', { ms: 200 })).rejects.toThrow('no response')
  })

  test('allow the largest sitemap that the protocol permits', async () => {
    files.set('/sitemap.xml', urlset(...Array.from({ length: 50_000 }, (_, i) => `${site}/${i}`)))
    expect((await read()).pages).toHaveLength(50_000)
  })
})
