// The site object in workerd: the rows it reads and writes for 1,000 pages, and the time that
// searches of 10,000 pages take.
import { afterAll, beforeAll, expect, test } from 'vitest'
import { queryOf } from '../../src/search/query.ts'
import { ORIGIN } from '../support/client.ts'
import { startWorkers, type Workers } from '../support/workerd.ts'

const config = {
  origins: [ORIGIN],
  models: [{ id: 'm', upstream: 'demo', upstream_model: 'demo' }],
  upstreams: [{ name: 'demo', preset: 'demo' }],
}

/** `POST /site/<method>` calls the object with the body's arguments, and counts rows. */
const MAIN = `
  import worker, { SiteObject as Site } from './worker.js'
  import { env } from 'cloudflare:workers'
  export * from './worker.js'

  /** Null: rows are not counted. */
  let cursors = null
  function watch(sql) {
    const prototype = Object.getPrototypeOf(sql)
    if (prototype.watched) return
    prototype.watched = true
    const { exec } = prototype
    prototype.exec = function (...args) {
      const cursor = exec.apply(this, args)
      cursors?.push(cursor)
      return cursor
    }
  }

  // A vocabulary in which the n-th word is n times as rare as the first, as in any language.
  let seed = 1
  const random = () => (seed = (seed * 48271) % 2147483647) / 2147483647
  const word = () => 'word' + Math.floor(Math.exp(random() * Math.log(20000)))
  const text = () => Array.from({ length: 110 }, word).join(' ')

  function pageOf(i, passages) {
    const url = 'https://site.example/page-' + i
    const title = 'Title ' + word()
    return {
      name: url, url, questions: null, now: 1,
      read: {
        title, language: 'en', validators: { etag: '"1"', last_modified: null }, readAs: 'r',
        hash: 'h' + seed,
        passages: Array.from({ length: passages }, (_, j) => (
          { url: url + '#part-' + j, title, heading: 'Heading ' + word(), text: text() }
        )),
      },
    }
  }

  export class SiteObject extends Site {
    constructor(ctx, e) {
      watch(ctx.storage.sql)
      super(ctx, e)
    }
    fill(from, to, passages) {
      for (let i = from; i < to; i++) {
        this.put(pageOf(i, passages))
      }
    }
    fillWith(name, text, passages) {
      const { read } = pageOf(0, 1)
      const [{ title, heading }] = read.passages
      const passage = { url: name, title, heading, text }
      const page = { ...read, passages: Array.from({ length: passages }, () => passage) }
      this.put({ name, url: name, questions: null, now: 1, read: page })
    }
    counted(method, args) {
      cursors = []
      const result = this[method](...args)
      const sum = (key) => cursors.reduce((all, cursor) => all + cursor[key], 0)
      const counts = { read: sum('rowsRead'), written: sum('rowsWritten') }
      cursors = null
      return { result, ...counts }
    }
    again(name) {
      const { etag, last_modified } = this.page(name)
      return this.put({ name, url: name, questions: null, now: 2, read: null })
    }
    size() {
      return this.ctx.storage.sql.databaseSize
    }
  }

  export default {
    async fetch(request) {
      const { pathname } = new URL(request.url)
      if (!pathname.startsWith('/site/')) return await worker.fetch(request)
      const method = pathname.slice('/site/'.length)
      const result = await env.SITE.getByName('site')[method](...(await request.json()))
      return Response.json(result ?? null)
    },
  }
`

let workers: Workers

beforeAll(async () => {
  workers = await startWorkers({ config, main: MAIN })
})

afterAll(async () => {
  await workers.dispose()
})

async function call(method: string, ...args: unknown[]): Promise<never> {
  const sent = { method: 'POST', path: `/site/${method}`, body: args, headers: { origin: null } }
  const { status, text } = await workers.client().send(sent)
  if (status !== 200) throw new Error(text)
  return JSON.parse(text) as never
}

interface Counted {
  readonly result: {
    readonly found: { readonly passages: readonly unknown[]; readonly coverage: number }
  }
  readonly read: number
  readonly written: number
}

const counted = async (method: string, ...args: unknown[]): Promise<Counted> =>
  await call('counted', method, args)

async function find(question: string, limit = 6): Promise<Counted> {
  return await counted('find', queryOf(question), limit, ['https://site.example'])
}

const PASSAGES = 8

test('1,000 pages: two rows are written for each passage and two for each page; a search reads few', async () => {
  const written = 2 * PASSAGES + 2
  expect(await counted('fill', 0, 1000, PASSAGES)).toMatchObject({ written: 1000 * written })
  // Replaced: the rows of the old passages are written, too. Other pages are not read.
  const replaced = await counted('fill', 5, 6, PASSAGES)
  expect(replaced.written).toBe(written + 2 * PASSAGES)
  expect(replaced.read).toBeLessThan(3 * PASSAGES)
  expect(await counted('again', 'https://site.example/page-9')).toMatchObject({
    result: { status: 'unchanged' },
    written: 0,
  })
  expect((await counted('version')).read).toBe(0)
  const { result, read } = await find('How can word10 and word50 be used for word200 and nothing?')
  expect(result.found.passages).toHaveLength(6)
  expect(result.found.coverage).toBe(3 / 4)
  // Four candidates for each result, of which two rows are read and one of their page; and one before
  // and one after the pages of the origin.
  expect(read).toBe(1 + 2 + 4 * 3 * 6)
  const removed = await counted('remove', 'https://site.example/page-8')
  expect(removed.written).toBe(written)
  // 13 MB for a million words.
  expect(await call('size')).toBeLessThan(20_000_000)
})

test('a page that has many passages better than all others: a search reads the texts of two', async () => {
  await call('fillWith', 'https://site.example/long', 'zebra', 15_000)
  await call('fillWith', 'https://site.example/short', 'zebra and more words', 1)
  const startedAt = performance.now()
  const { result, read } = await find('zebra')
  expect(performance.now() - startedAt).toBeLessThan(1000)
  expect(result.found.passages).toHaveLength(3)
  // FTS5 has a row for each that is passed over.
  expect(read).toBe(1 + 2 + 15_000 + 2 * 3)
  await call('remove', 'https://site.example/long')
})

test('10,000 pages: a search reads no more rows, and a long question of frequent words is answered in time', async () => {
  for (let from = 1000; from < 10_000; from += 1000) await call('fill', from, from + 1000, 2)
  const common = Array.from({ length: 100 }, (_, i) => `word${i + 1}`).join(' ')
  const startedAt = performance.now()
  const { result, read } = await find(common, 20)
  // A bound on the rows that are ranked; tens of milliseconds on a machine that does nothing else.
  expect(performance.now() - startedAt).toBeLessThan(1000)
  expect(result.found.passages).toHaveLength(20)
  expect(read).toBeLessThanOrEqual(1 + 2 + 4 * 3 * 20)
  expect((await counted('fill', 5, 6, PASSAGES)).read).toBeLessThan(3 * PASSAGES)
})
