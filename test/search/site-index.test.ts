// The index in process, on the SQLite of Node: what is found and in which order, how pages are
// replaced and removed, and that nothing of a question reaches the engine's syntax.
import { beforeEach, describe, expect, test } from 'vitest'
import type { Passage } from '../../src/search/passage.ts'
import { queryOf } from '../../src/search/query.ts'
import { type PageUpdate, SiteIndex } from '../../src/search/site-index.ts'
import { memorySql } from '../support/site.ts'

const SITE = 'https://example.com'
let sql: ReturnType<typeof memorySql>
let index: SiteIndex

beforeEach(() => {
  sql = memorySql()
  index = new SiteIndex(sql)
})

type Piece = string | Partial<Passage>

/** A page with these passages. Its hash is made of them. */
function page(path: string, pieces: readonly Piece[], more: Partial<PageUpdate> = {}): PageUpdate {
  const url = SITE + path
  const passages = pieces.map((piece) => ({
    url,
    title: '',
    heading: '',
    text: '',
    ...(typeof piece === 'string' ? { text: piece } : piece),
  }))
  const validators = { etag: '"1"', last_modified: null }
  const hash = JSON.stringify(passages)
  const read = { title: 'T', language: 'en', validators, readAs: 'r1', hash, passages }
  return { name: url, url, read, questions: null, now: 7, ...more }
}

const find = (question: string, limit = 20) => index.find(queryOf(question), limit, [SITE]).found
const textsFor = (question: string, limit = 20) =>
  find(question, limit)?.passages.map(({ text }) => text)

const rows = () => {
  const count = (query: string) => [...sql.exec<{ n: number }>(query)][0]?.n
  return [
    count('SELECT COUNT(*) AS n FROM pages'),
    count('SELECT COUNT(*) AS n FROM passages'),
    count('SELECT COUNT(*) AS n FROM words WHERE words MATCH \'"common"\''),
  ]
}

describe('find()', () => {
  test('returns null as long as no page is indexed, and again when none is left', () => {
    expect(find('boat')).toBeNull()
    index.put(page('/a', ['a boat']))
    expect(find('plane')).toEqual({ passages: [], coverage: 0 })
    index.remove(`${SITE}/a`)
    expect(find('boat')).toBeNull()
  })

  test.each([
    ['stems', 'configuring', 'How to configure it'],
    ['stems of the page', 'connection', 'Once it has been connected'],
    ['case and width', 'ＢＯＡＴ', 'The boat'],
    ['accents', 'naive resume', 'Naïve Résumé'],
    ['umlauts and ß', 'strasse fur', 'Straße für alle'],
    ['code', 'max_tokens', 'Set `max_tokens = 5`'],
    ['Chinese', '东京天气', '今天的东京很好'],
    ['one Chinese character', '猫', '黑猫和狗'],
    ['Japanese', 'キャッシュの設定', 'キャッシュについて'],
    ['Korean with other particles', '서버가', '서버를 켜다'],
    ['Thai', 'ภาษาไทย', 'สอนภาษาไทยฟรี'],
    ['Hindi', 'हिन्दी', 'यह हिन्दी है'],
    ['Arabic', 'القارب', 'هذا القارب كبير'],
    ['Hebrew', 'שלום', 'הם אמרו שלום'],
    ['Greek capitals', 'ΣΚΆΦΟΣ', 'το σκάφος'],
    ['Russian', 'лодка', 'Лодка плывёт'],
  ])('finds %s', (_, question, text) => {
    index.put(page('/a', [text, 'something else']))
    expect(textsFor(question)).toEqual([text])
  })

  test('any word may match; a word of the title counts more than one of the headings, the path and the text', () => {
    index.put(page('/text', ['about boats and what floats on a lake']))
    index.put(page('/boats', [{ text: 'in the path and on a lake here' }]))
    index.put(page('/heading', [{ heading: 'Boats', text: 'in the headings, on a lake' }]))
    index.put(page('/title', [{ title: 'Boats', text: 'in the title, which is on top' }]))
    for (let i = 0; i < 9; i++) index.put(page(`/other${i}`, ['planes in the sky, not on a lake']))
    const found = find('Which boats are waterproof?')
    expect(found?.passages.map(({ url }) => url)).toEqual(
      ['/title', '/heading', '/boats', '/text'].map((path) => SITE + path),
    )
    const scores = found?.passages.map(({ score }) => score) ?? []
    expect(scores).toEqual(scores.toSorted((a, b) => b - a))
    expect(scores.at(-1)).toBeGreaterThan(0)
    expect(found?.coverage).toBe(1 / 2)
  })

  test('of two passages alike, the one of the shorter page comes first', () => {
    const others = Array.from({ length: 30 }, (_, i) => `nothing of it, part ${i} of many`)
    index.put(page('/long', ['how boats are painted', ...others]))
    index.put(page('/short', ['how boats are painted', 'and sold']))
    index.put(page('/other', ['planes are not painted at all']))
    expect(find('painted boats', 2)?.passages.map(({ url }) => url)).toEqual([
      `${SITE}/short`,
      `${SITE}/long`,
    ])
    const [first, second] = find('painted boats', 2)?.passages ?? []
    expect(first?.score).toBeGreaterThan(second?.score ?? 0)
  })

  test('on a small site, a word that most passages have counts, too', () => {
    index.put(page('/walk', [{ title: 'The walk', text: 'It takes two hours, and it is steep.' }]))
    index.put(page('/hedge', ['The hedge has been there for long.']))
    index.put(page('/pub', ['Whoever has had a walk is thirsty.']))
    expect(textsFor('How long is the walk?', 1)).toEqual(['It takes two hours, and it is steep.'])
  })

  test('returns no pages of an origin that is no longer allowed', () => {
    const { read, ...old } = page('/old', ['boat'])
    const passages = [{ url: 'https://old.example/', title: '', heading: '', text: 'boat' }]
    index.put({ ...old, name: 'https://old.example/', read: { ...read!, passages } })
    index.put(page('/new', ['a boat']))
    expect(textsFor('boat')).toEqual(['a boat'])
  })

  test('returns at most two passages of a page, and as many as wanted', () => {
    index.put(page('/a', ['boat one', 'boat two', 'boat three']))
    index.put(
      page('/b', [
        { url: `${SITE}/b#x`, text: 'a boat, and more words' },
        { url: `${SITE}/b/#y`, text: 'a boat, and yet more words here' },
        { url: `${SITE}/b.html`, text: 'a boat, and even so many more words here' },
      ]),
    )
    expect(textsFor('boat')).toHaveLength(4)
    expect(textsFor('boat', 3)).toHaveLength(3)
    expect(textsFor('boat', 1)).toHaveLength(1)
  })

  test('a page with many better passages hides no other page', () => {
    const title = 'Boat'
    index.put(page('/long', new Array(2500).fill({ title, text: 'boat' })))
    for (const path of ['/a', '/b', '/c']) index.put(page(path, [`a boat in the page ${path}`]))
    const urls = find('boat', 6)?.passages.map(({ url }) => url.slice(SITE.length))
    expect(urls?.toSorted()).toEqual(['/a', '/b', '/c', '/long', '/long'])
  })

  test('a page of a text with all pages hides no other page of it', () => {
    const passages = (path: string, n: number) =>
      new Array(n).fill({ url: SITE + path, title: 'Boat', text: 'boat' })
    const pieces = [...passages('/long', 1500), { url: `${SITE}/b`, text: 'a boat in a page' }]
    index.put(page('/llms-full.txt', [...passages('/llms-full.txt', 3), ...pieces]))
    const urls = find('boat', 6)?.passages.map(({ url }) => url.slice(SITE.length))
    expect(urls?.toSorted()).toEqual(['/b', '/llms-full.txt', '/llms-full.txt', '/long', '/long'])
  })

  test('pages of origins that are no longer allowed hide no page of the others', () => {
    const at = (origin: string, n: number): PageUpdate => {
      const url = `${origin}/${n}`
      return { ...page(`/${n}`, [{ url, title: 'Boat', text: 'boat' }]), name: url, url }
    }
    const around = ['http://example.com', 'https://example.co', `${SITE}.au`, `${SITE}:8080`]
    for (let n = 0; n < 600; n++) for (const origin of around) index.put(at(origin, n))
    index.put(page('/new', ['a boat']))
    index.put(at('https://example-2.com', 1))
    expect(textsFor('boat')).toEqual(['a boat'])
    const origins = [SITE, 'https://example-2.com']
    const found = index.find(queryOf('boat'), 20, origins).found?.passages ?? []
    expect(found.map(({ url }) => new URL(url).origin).toSorted()).toEqual(origins.toSorted())
  })

  test('words that have more rows than are ranked are asked for from the rarest up; all count for the coverage', () => {
    const words = { seldom: 6990, rarer: 7000, common: 7010 }
    const texts = Object.entries(words).flatMap(([word, rows]) => new Array(rows).fill(word))
    index.put(page('/all', texts))
    for (const title of Object.keys(words)) index.put(page(`/${title}`, [{ title }]))
    const pagesFor = (question: string) => {
      const urls = find(question)?.passages.map(({ url }) => url.slice(SITE.length + 1))
      return urls?.filter((path) => path !== 'all' && path !== 'more').sort()
    }
    expect(pagesFor('common rarer seldom')).toEqual(['rarer', 'seldom'])
    expect(pagesFor('common rarer')).toEqual(['common', 'rarer'])
    expect(find('common rarer seldom nothing')?.coverage).toBe(3 / 4)
    // The rarest word is asked for, also if it has too many rows alone.
    index.put(page('/more', new Array(25_000).fill('common')))
    expect(pagesFor('common nothing')).toEqual(['common'])
    expect(pagesFor('common seldom')).toEqual(['seldom'])
  })

  test.each([
    ['"', 0],
    ['""', 0],
    ['*', 0],
    ['NEAR(', 0],
    ['NEAR(boat lake)', 1],
    ['title:', 0],
    ['title:boat', 1],
    ['{title text}: boat', 1],
    ['AND', 0],
    ['NOT boat', 1],
    ['-boat', 1],
    ['^boat', 1],
    ['boat*', 1],
    ['boa*', 0],
    ['boat" OR "x', 1],
    ['\u0000', 0],
    ['boat\u0000', 1],
    ["'; DROP TABLE pages; -- boat", 1],
    ['(((((', 0],
    ['\\', 0],
    ['x'.repeat(1000), 0],
    ['boat '.repeat(200), 1],
    ['🚀🚀🚀', 0],
    ['👩‍👩‍👧‍👦', 0],
    ['\u202Eboat\u202C', 1],
    ['ﷺ', 0],
    ['of the and', 0],
    ['\ud800', 0],
    // Younger than the engine's table of letters.
    ['𞤀𞤣𞤤𞤢𞤥', 0],
  ])('takes the question %j', (question, found) => {
    index.put(page('/a', ['large boat']))
    expect(find(question)?.passages).toHaveLength(found)
    expect(find('boat')?.passages).toHaveLength(1)
  })
})

describe('put()', () => {
  test('replaces a page as a whole, and leaves no words or rows of it', () => {
    index.put(page('/a', ['common old one', 'common old two', 'common old three']))
    index.put(page('/b', ['common b']))
    expect(index.put(page('/a', ['common new']))).toEqual({
      status: 'indexed',
      passages: 1,
      questions: 0,
      version: index.version,
    })
    expect(rows()).toEqual([2, 2, 2])
    expect(textsFor('old')).toEqual([])
    expect(textsFor('new')).toEqual(['common new'])
    expect(textsFor('b')).toEqual(['common b'])
  })

  test('changes the version with every change, and with nothing else', () => {
    const versions = [index.version]
    const note = (expected: 'same' | 'other') => {
      const same = index.version === versions.at(-1)
      expect(same ? 'same' : 'other').toBe(expected)
      versions.push(index.version)
    }
    index.put(page('/a', ['one']))
    note('other')
    index.put(page('/a', ['one']))
    note('same')
    find('one')
    index.list()
    index.remove(`${SITE}/none`)
    note('same')
    index.put(page('/a', ['two']))
    note('other')
    index.remove(`${SITE}/a`)
    note('other')
    expect(new SiteIndex(sql).version).toBe(index.version)
  })

  test('of an unchanged page writes nothing but its validators', () => {
    const first = page('/a', ['one'])
    index.put(first)
    const { read } = page('/a', ['one'])
    const validators = { etag: '"2"', last_modified: null }
    const again = { ...first, read: { ...read!, validators, title: 'Other' }, now: 9 }
    expect(index.put(again)).toMatchObject({ status: 'unchanged', passages: 1 })
    expect(index.page(first.name)).toEqual({ ...validators, readAs: 'r1' })
    expect(index.list().pages).toMatchObject([{ title: 'T', indexed_at: 7 }])
    expect(index.put({ ...first, read: null })).toMatchObject({ status: 'unchanged' })
  })

  test('returns null for a page that is said to be unchanged but is not stored', () => {
    expect(index.put({ ...page('/a', []), read: null })).toBeNull()
  })

  test('indexes each question with the passage that it fits best', () => {
    const boats = ['Boats float on a lake.', 'Planes fly in the sky.']
    const questions = ['What floats, and where can it be used?', 'Which vehicles fly?', '???']
    expect(index.put(page('/a', boats, { questions }))).toMatchObject({ questions: 3 })
    expect(textsFor('vehicles')).toEqual([boats[1]])
    expect(textsFor('where')).toEqual([boats[0]])
    expect(index.list().pages).toMatchObject([{ questions: 3 }])
  })

  test('ranks a bounded number of rows for all questions of a page', () => {
    const asked: string[] = []
    const watched: typeof sql = {
      ...sql,
      exec: (query, ...values) => {
        if (query.includes('BETWEEN ? AND ?')) asked.push(String(values[0]))
        return sql.exec(query, ...values)
      },
    }
    index = new SiteIndex(watched)
    index.put(page('/few', ['a red boat', 'a blue boat'], { questions: ['Is a blue boat red?'] }))
    expect(asked.splice(0)).toEqual([expect.stringContaining(' OR ')])
    const texts = Array.from({ length: 10_000 }, (_, i) => `red boat ${i}`)
    const questions = Array.from({ length: 50 }, (_, i) => `red boat ${i + 100}`)
    expect(index.put(page('/many', texts, { questions }))).toMatchObject({ questions: 50 })
    expect(asked).toEqual(questions.map((_, i) => `"${i + 100}"`))
    expect(textsFor('131', 1)).toEqual(['red boat 131'])
  })

  test('indexes the last headings of a passage if there are many', () => {
    const heading = ['Ships', 'long '.repeat(100), 'Boats'].join(' › ')
    index.put(page('/a', [{ heading, text: 'planes' }]))
    expect([textsFor('ships'), textsFor('boats')]).toEqual([[], ['planes']])
    expect(find('boats')?.passages[0]?.heading).toBe(heading)
  })

  test('keeps the questions of an unchanged page, replaces given ones, and drops those of a changed page', () => {
    const texts = ['Boats float.']
    const put = (more: Partial<PageUpdate>, pieces = texts) => index.put(page('/a', pieces, more))
    put({ questions: ['Which vehicles swim?'] })
    expect(put({})).toMatchObject({ status: 'unchanged', questions: 1 })
    expect(put({ read: null })).toMatchObject({ status: 'unchanged', questions: 1 })
    expect(put({ read: null, questions: ['Which vehicles swim?'] })).toMatchObject({
      status: 'unchanged',
    })
    expect(textsFor('vehicles')).toEqual(texts)
    // The passages are those that are stored.
    expect(put({ read: null, questions: ['What is a yacht?'] })).toMatchObject({
      status: 'indexed',
      passages: 1,
      questions: 1,
    })
    expect([textsFor('vehicles'), textsFor('yacht'), textsFor('float')]).toEqual([[], texts, texts])
    expect(put({}, ['Boats sink.'])).toMatchObject({ status: 'indexed', questions: 0 })
    expect(textsFor('yacht')).toEqual([])
    expect(put({ questions: [] })).toMatchObject({ status: 'indexed' })
  })

  test('stores nothing of a page if one of its writes fails', () => {
    index.put(page('/a', ['common old']))
    const { version } = index
    for (const table of ['words', 'settings']) {
      sql.exec(`ALTER TABLE ${table} RENAME TO gone`)
      expect(() => index.put(page('/a', ['common new', 'common newer']))).toThrow()
      sql.exec(`ALTER TABLE gone RENAME TO ${table}`)
      expect(rows()).toEqual([1, 1, 1])
      expect(textsFor('common')).toEqual(['common old'])
      // Otherwise two states of the index would have the same version after a restart.
      expect(index.version).toBe(version)
    }
  })
})

test('remove() leaves nothing of the page', () => {
  index.put(page('/a', ['common one', 'common two']))
  index.put(page('/b', ['common']))
  expect(index.remove(`${SITE}/a`).removed).toBe(true)
  expect(index.remove(`${SITE}/a`).removed).toBe(false)
  expect(rows()).toEqual([1, 1, 1])
  expect(index.list().pages.map(({ url }) => url)).toEqual([`${SITE}/b`])
})

test('an index in the words of another version is built again from what is stored', () => {
  index.put(page('/a', ['Boats float.', 'Planes fly.'], { questions: ['Which vehicles swim?'] }))
  sql.exec("UPDATE settings SET value = 0 WHERE name = 'format'")
  sql.exec('DELETE FROM words')
  const { version } = index
  index = new SiteIndex(sql)
  expect(index.version).toBeGreaterThan(version)
  expect(textsFor('vehicles boats')).toEqual(['Boats float.'])
  expect(textsFor('fly')).toEqual(['Planes fly.'])
})
