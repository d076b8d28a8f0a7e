// Sitemaps as sites serve them, over real connections: what is read, and where reading ends.
import { createServer, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { gzipSync } from 'node:zlib'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { LIMITS, readSitemap } from '../../../scripts/warm/sitemap.ts'

type Handler = string | Buffer | ((response: ServerResponse) => void)

let server: Server
let other: Server
let site: string
const files = new Map<string, Handler>()
const asked: string[] = []

beforeAll(async () => {
  server = createServer(({ url = '' }, response) => {
    asked.push(url)
    const found = files.get(url)
    if (found === undefined) response.writeHead(404).end('<html>no</html>')
    else if (typeof found === 'function') found(response)
    else response.end(found)
  })
  other = createServer((_, response) => response.end(urlset('https://other.example/a')))
  await Promise.all([listen(server), listen(other)])
  site = `http://127.0.0.1:${portOf(server)}`
})

afterAll(() => {
  for (const each of [server, other]) {
    each.closeAllConnections()
    each.close()
  }
})

beforeEach(() => {
  files.clear()
  asked.length = 0
})

const listen = (each: Server) =>
  new Promise<void>((resolve) => each.listen(0, '127.0.0.1', () => resolve()))
const portOf = (each: Server) => (each.address() as AddressInfo).port

const NAMESPACE = 'xmlns="http://www.sitemaps.org/schemas/sitemap/0.9"'
const loc = (url: string) => `<loc>${url}</loc>`
const urlset = (...urls: string[]) =>
  `<?xml version="1.0" encoding="UTF-8"?>\n<urlset ${NAMESPACE}>${urls
    .map((url) => `<url>${loc(url)}<lastmod>2026-11-01</lastmod></url>`)
    .join('\n')}</urlset>`
const index = (...urls: string[]) =>
  `<sitemapindex ${NAMESPACE}>${urls.map((url) => `<sitemap>${loc(url)}</sitemap>`).join('')}</sitemapindex>`

const read = async (path = '/sitemap.xml', limits = {}) =>
  await readSitemap(`${site}${path}`, fetch, { ...LIMITS, ...limits })

test('a sitemap: its pages in their order, each once', async () => {
  files.set(
    '/sitemap.xml',
    urlset('https://a.example/1', 'https://a.example/2', 'https://a.example/1'),
  )
  expect(await read()).toEqual({
    origin: site,
    pages: ['https://a.example/1', 'https://a.example/2'],
    skipped: [],
    unread: [],
  })
})

test('entities, CDATA, comments, white space, a byte order mark and a prefix are read as XML says', async () => {
  files.set(
    '/sitemap.xml',
    `\ufeff<?xml version="1.0"?>
    <!-- <url><loc>https://a.example/commented</loc></url> -->
    <s:urlset xmlns:s="http://www.sitemaps.org/schemas/sitemap/0.9" xmlns:image="urn:image">
      <s:url>
        <image:image><image:loc>https://a.example/picture.png</image:loc></image:image>
        <s:loc>
          https://a.example/?a=1&amp;b=&#x32;
        </s:loc>
        <image:loc>https://a.example/stray.png</image:loc>
      </s:url>
      <s:url><s:loc><![CDATA[https://a.example/?c&d]]></s:loc></s:url>
      <s:url><s:loc>https://a.example/<!-- no -->split</s:loc></s:url>
      <s:url><s:lastmod>2026-11-01</s:lastmod></s:url>
    </s:urlset>`,
  )
  expect((await read()).pages).toEqual([
    'https://a.example/?a=1&b=2',
    'https://a.example/?c&d',
    'https://a.example/split',
  ])
})

const [a, b] = ['https://a.example/a', 'https://a.example/b']
const entry = (url: string, prefix = '') =>
  `<${prefix}url><${prefix}loc>${url}</${prefix}loc></${prefix}url>`
const utf16 = (text: string) => Buffer.from(`\ufeff${text}`, 'utf16le')

test.each<readonly [string, string | Buffer, string[]]>([
  ['a line before the declaration', `\n${urlset(a)}\n`, [a]],
  ['lines and white space before the declaration', ` \r\n\t\r\n${urlset(a)}`, [a]],
  ['a byte order mark', `\ufeff${urlset(a)}`, [a]],
  ['a byte order mark and a line', `\ufeff\n${urlset(a)}`, [a]],
  [
    'white space before a root without a declaration',
    `\n\n<urlset ${NAMESPACE}>${entry(a)}</urlset>`,
    [a],
  ],
  ['UTF-16', utf16(urlset(a).replace('UTF-8', 'UTF-16')), [a]],
  ['UTF-16, big-endian', utf16(urlset(a)).swap16(), [a]],
  [
    'the encoding of its declaration',
    Buffer.from(urlset('https://a.example/é').replace('UTF-8', 'ISO-8859-1'), 'latin1'),
    ['https://a.example/é'],
  ],
  [
    'a prefix on the children',
    `<urlset ${NAMESPACE} ${NAMESPACE.replace('=', ':s=')}>${entry(a, 's:')}</urlset>`,
    [a],
  ],
  [
    'a prefix on all',
    `<sit:urlset ${NAMESPACE.replace('=', ':sit=')}>${entry(a, 'sit:')}</sit:urlset>`,
    [a],
  ],
  [
    'a prefix on the root alone',
    `<s:urlset ${NAMESPACE.replace('=', ':s=')} ${NAMESPACE}>${entry(a)}</s:urlset>`,
    [a],
  ],
  [
    'a prefix that is bound where it is used',
    `<urlset ${NAMESPACE}><s:url ${NAMESPACE.replace('=', ':s=')}><s:loc>${a}</s:loc></s:url><url><t:loc ${NAMESPACE.replace('=', ':t=')}>${b}</t:loc></url></urlset>`,
    [a, b],
  ],
  [
    'two prefixes for one namespace',
    `<p:urlset ${NAMESPACE.replace('=', ':p=')} ${NAMESPACE.replace('=', ':q=')}><q:url><p:loc>${a}</p:loc></q:url></p:urlset>`,
    [a],
  ],
  [
    'a namespace that the children bind again',
    `<s:urlset ${NAMESPACE.replace('=', ':s=')}><url ${NAMESPACE}><loc>${a}</loc></url></s:urlset>`,
    [a],
  ],
  ['a prefix that is bound to nothing', `<s:urlset>${entry(a, 's:')}</s:urlset>`, [a]],
  ['no namespace', `<urlset>${entry(a)}</urlset>`, [a]],
  [
    'a prefix below a root without a namespace',
    `<urlset ${NAMESPACE.replace('=', ':s=')}>${entry(a, 's:')}</urlset>`,
    [a],
  ],
  [
    'an older namespace',
    `<urlset xmlns="http://www.google.com/schemas/sitemap/0.84">${entry(a)}</urlset>`,
    [a],
  ],
  [
    'locations of pictures',
    `<urlset ${NAMESPACE} xmlns:image="i"><url><image:image><image:loc>${b}</image:loc></image:image><image:loc>${b}</image:loc><loc>${a}</loc></url></urlset>`,
    [a],
  ],
  [
    'a prefix that means something else within',
    `<s:urlset ${NAMESPACE.replace('=', ':s=')}><s:url><s:loc xmlns:s="i">${b}</s:loc><s:loc>${a}</s:loc></s:url></s:urlset>`,
    [a],
  ],
  [
    'CDATA and white space',
    `<urlset ${NAMESPACE}>${entry(`<![CDATA[${a}]]>`)}${entry(`\n ${b}\n `)}</urlset>`,
    [a, b],
  ],
  [
    'references',
    urlset('https://a.example/?a=1&amp;b=%20&#x26;c'),
    ['https://a.example/?a=1&b=%20&c'],
  ],
  ['an address twice', urlset(a, b, a), [a, b]],
  ['gzip under a name that does not say so', gzipSync(`\n${urlset(a)}`), [a]],
  ['plain lines with a byte order mark', `\ufeff\n${a}\r\n\r\n  ${b}  `, [a, b]],
  ['plain lines in UTF-16', utf16(`${a}\r\n${b}`), [a, b]],
])('reads %s', async (_, file, pages) => {
  files.set('/sitemap.xml', file)
  expect(await read()).toMatchObject({ pages, skipped: [], unread: [] })
})

test('gzip in transport, of a file that is gzip, too', async () => {
  files.set('/sitemap.xml', (response) => {
    response.setHeader('content-encoding', 'gzip')
    response.end(gzipSync(gzipSync(urlset(a))))
  })
  expect((await read()).pages).toEqual([a])
})

test('addresses that are relative are told, with what they would be; so are empty ones', async () => {
  const relative = (whole: string) =>
    `it is relative, and a sitemap needs whole addresses; write ${whole}`
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
      { url: `${site}/maps/s.xml`, reason: 'a <loc> in it is empty' },
      { url: `${site}/maps/s.xml`, reason: 'a <loc> in it is empty' },
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

test('a sitemap of an index that cannot be read is told, and the others are read', async () => {
  files.set(
    '/index.xml',
    index(
      ...['gone', 'page', 'cut', 'gz', 'reset', 'good', 'deep'].map((name) => `${site}/${name}`),
    ),
  )
  files.set('/page', '<!doctype html><p>Not found<br></p>')
  files.set('/cut', '<urlset>\n<url>')
  files.set('/gz', gzipSync('x'.repeat(999)).subarray(0, 20))
  files.set('/reset', (response) => void response.destroy())
  files.set('/good', urlset(a))
  files.set('/deep', index(`${site}/gone-too`, `${site}/good-too`))
  files.set('/good-too', urlset(b))
  const { pages, skipped, unread } = await read('/index.xml')
  expect(pages).toEqual([a, b])
  expect(skipped).toEqual([])
  expect(unread).toEqual([
    { url: `${site}/gone`, reason: 'the site answers 404' },
    { url: `${site}/page`, reason: expect.stringContaining('no well-formed XML') },
    { url: `${site}/cut`, reason: 'it is no well-formed XML, see its line 2' },
    { url: `${site}/gz`, reason: 'its gzip is broken' },
    { url: `${site}/reset`, reason: 'no answer' },
    { url: `${site}/gone-too`, reason: 'the site answers 404' },
  ])
})

test('the line of a fault counts the empty ones before the declaration', async () => {
  files.set('/sitemap.xml', '\n\n<?xml version="1.0"?>\n<urlset>\n<url>')
  await expect(read()).rejects.toThrow('no well-formed XML, see its line 5')
})

test('an index is followed, also gzipped, also in an index, and no sitemap is read twice', async () => {
  files.set('/sitemap.xml', index(`${site}/a.xml.gz`, `${site}/more.xml`, `${site}/sitemap.xml`))
  files.set('/a.xml.gz', gzipSync(urlset('https://a.example/1')))
  files.set('/more.xml', index(`${site}/b.xml`, `${site}/a.xml.gz`))
  files.set('/b.xml', (response) => {
    response.setHeader('content-encoding', 'gzip')
    response.end(gzipSync(urlset('https://a.example/2')))
  })
  expect((await read()).pages).toEqual(['https://a.example/1', 'https://a.example/2'])
  expect(asked).toEqual(['/sitemap.xml', '/a.xml.gz', '/more.xml', '/b.xml'])
})

test('plain lines are a sitemap, too', async () => {
  files.set('/sitemap.txt', 'https://a.example/1\r\n\r\nhttps://a.example/2\n')
  expect((await read('/sitemap.txt')).pages).toEqual(['https://a.example/1', 'https://a.example/2'])
})

test('an empty sitemap has no pages', async () => {
  files.set('/sitemap.xml', `<urlset ${NAMESPACE}/>`)
  expect((await read()).pages).toEqual([])
})

test('sitemaps of another origin are left out, and said; the first one’s own redirect is followed', async () => {
  const elsewhere = `http://127.0.0.1:${portOf(other)}`
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
  const reason = `a sitemap of another origin than ${site}`
  expect(skipped).toEqual([
    { url: `${elsewhere}/s.xml`, reason },
    {
      url: 'b.xml',
      reason: `it is relative, and a sitemap needs whole addresses; write ${site}/b.xml`,
    },
    { url: `${site}/away.xml`, reason },
  ])
  // A site that has moved altogether.
  files.set('/moved.xml', redirect(`${elsewhere}/s.xml`))
  expect(await read('/moved.xml')).toMatchObject({
    origin: elsewhere,
    pages: ['https://other.example/a'],
  })
})

describe('says what it cannot read', () => {
  const bomb = () => {
    const entities = Array.from({ length: 20 }, (_, i) => `<!ENTITY e${i + 1} "&e${i};&e${i};">`)
    return `<!DOCTYPE urlset [<!ENTITY e0 "x">${entities.join('')}]><urlset><url><loc>&e20;</loc></url></urlset>`
  }
  test.each<readonly [string, Handler | null, string]>([
    ['nothing there', null, 'the site answers 404'],
    [
      'a page',
      '<html><body>Hello</body></html>',
      'expected <urlset> or <sitemapindex>, got <html>',
    ],
    ['no root of the protocol', '<myurlset/>', 'got <myurlset>'],
    ['a feed', '<feed><entry/></feed>', 'got <feed>'],
    ['no XML', '<urlset>\n<url>', 'no well-formed XML, see its line 2'],
    ['HTML of many', '<!doctype html><p>Hello<br></p>', 'no well-formed XML'],
    ['JSON', '{"error":1}', 'expected XML, or one address in each line'],
    ['nothing in it', '', 'expected XML, or one address in each line'],
    ['broken gzip', gzipSync('x'.repeat(999)).subarray(0, 20), 'its gzip is broken'],
    ['another charset', Buffer.from('<urlset>é</urlset>', 'latin1'), 'it is no UTF-8'],
    ['an entity bomb', bomb(), 'no well-formed XML'],
    [
      'an entity of a file',
      '<!DOCTYPE u [<!ENTITY f SYSTEM "file:///etc/passwd">]><urlset><url><loc>&f;</loc></url></urlset>',
      'no well-formed XML',
    ],
    ['a tower of elements', '<a>'.repeat(200_000), 'no well-formed XML'],
    ['a broken connection', (response) => void response.destroy(), 'no answer'],
    [
      'half an answer',
      (response) => {
        response.writeHead(200, { 'content-length': '100' })
        response.write('<urlset>', () => response.destroy())
      },
      'no answer',
    ],
  ])('%s', async (_, file, said) => {
    if (file !== null) files.set('/sitemap.xml', file)
    const failure = await read().catch((error: Error) => error.message)
    expect(failure).toMatch(/^Cannot read the sitemap http:\/\/127\.0\.0\.1:\d+\/sitemap\.xml: /)
    expect(failure).toContain(said)
  })
})

describe('ends where it is told to', () => {
  test('at so many pages', async () => {
    files.set('/sitemap.xml', urlset('https://a.example/1', 'https://a.example/2'))
    expect((await read('/sitemap.xml', { pages: 2 })).pages).toHaveLength(2)
    await expect(read('/sitemap.xml', { pages: 1 })).rejects.toThrow('more than 1 pages in all')
  })

  test('at so many sitemaps', async () => {
    files.set('/sitemap.xml', index(`${site}/a.xml`, `${site}/b.xml`))
    for (const name of ['/a.xml', '/b.xml']) files.set(name, urlset('https://a.example/1'))
    expect((await read('/sitemap.xml', { sitemaps: 3 })).pages).toHaveLength(1)
    await expect(read('/sitemap.xml', { sitemaps: 2 })).rejects.toThrow('more than 2 sitemaps')
  })

  test('at so many indexes in one another', async () => {
    for (let i = 0; i < 5; i += 1) files.set(`/${i}.xml`, index(`${site}/${i + 1}.xml`))
    files.set('/5.xml', urlset('https://a.example/1'))
    expect((await read('/0.xml', { depth: 5 })).pages).toHaveLength(1)
    await expect(read('/0.xml', { depth: 4 })).rejects.toThrow('more than 4 indexes')
  })

  test('at so many bytes, packed or unpacked, of all together', async () => {
    const text = urlset('https://a.example/1')
    files.set('/sitemap.xml', text)
    expect((await read('/sitemap.xml', { bytes: text.length })).pages).toHaveLength(1)
    await expect(read('/sitemap.xml', { bytes: text.length - 1 })).rejects.toThrow('bytes in all')
    const index1 = index(`${site}/a.xml`, `${site}/b.xml`)
    files.set('/index.xml', index1)
    for (const name of ['/a.xml', '/b.xml']) files.set(name, text)
    const bytes = index1.length + text.length * 2
    expect((await read('/index.xml', { bytes })).pages).toHaveLength(1)
    await expect(read('/index.xml', { bytes: bytes - 1 })).rejects.toThrow('bytes in all')
    files.set('/bomb.xml.gz', gzipSync(Buffer.alloc(30_000_000, ' ')))
    await expect(read('/bomb.xml.gz', { bytes: 1_000_000 })).rejects.toThrow('bytes in all')
  })

  test('at an endless one, without waiting for its end', async () => {
    let left = false
    files.set('/sitemap.xml', (response) => {
      const timer = setInterval(() => response.write(' '.repeat(10_000)), 1)
      response.on('close', () => {
        clearInterval(timer)
        left = true
      })
    })
    await expect(read('/sitemap.xml', { bytes: 100_000 })).rejects.toThrow('bytes in all')
    await expect.poll(() => left).toBe(true)
  })

  test('at so much time', async () => {
    files.set('/sitemap.xml', (response) => void response.write('<urlset>'))
    await expect(read('/sitemap.xml', { ms: 200 })).rejects.toThrow('no answer')
  })

  test('a sitemap as long as the protocol allows is read', async () => {
    files.set('/sitemap.xml', urlset(...Array.from({ length: 50_000 }, (_, i) => `${site}/${i}`)))
    expect((await read()).pages).toHaveLength(50_000)
  })
})
