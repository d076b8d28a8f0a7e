// Pages fetched and cut into passages. outline.test.ts, markdown.test.ts and passages.test.ts have
// the rules.
import { expect, test } from 'vitest'
import { PageError } from '../../src/page/fetch.ts'
import { fetchPassages } from '../../src/search/read.ts'
import { references } from '../support/html.ts'

const URL_A = 'https://site.test/docs/a'

/** Reads a page that the site serves like this. */
async function read(body: BodyInit, type = 'text/html', url = URL_A) {
  const source = { url: new URL(url), selector: 'main, article, body', refusalOf: () => null }
  const page = await fetchPassages(source, null, {
    fetch: async () => new Response(body, { headers: { 'content-type': type, etag: '"1"' } }),
    references: async () => references,
  })
  if (page === null) throw new Error('a page that is read for the first time is never unchanged')
  return page
}

const faultOf = (reading: Promise<unknown>) =>
  reading.then(
    () => null,
    (error: unknown) => (error instanceof PageError ? error.fault : error),
  )

test('reads a page into passages with their headings and links', async () => {
  const page = await read(`<!doctype html><html lang=en><title>A – Site</title><nav>Menu</nav><main>
    <h1>Guide</h1><p>First.</p>
    <h2 id=install>Install<a href="#install">¶</a></h2><p>Run it.</p><pre>npm i\n  x</pre>
    <section id=use><h3>Use</h3><ul><li>one<li>two</ul></section></main>`)
  expect(page).toMatchObject({
    title: 'Guide',
    language: 'en',
    validators: { etag: '"1"', last_modified: null },
  })
  expect(page.passages.map(({ url, heading }) => [url, heading])).toEqual([
    [URL_A, ''],
    [`${URL_A}#install`, 'Install'],
    [`${URL_A}#use`, 'Install › Use'],
  ])
  expect(page.passages.map(({ text }) => text)).toMatchObject([
    'First.',
    'Run it.\nnpm i\n  x',
    expect.stringMatching(/one\n.*two/),
  ])
})

test('throws "empty" for a page without text', async () => {
  expect(await faultOf(read('<main><script>x</script></main>'))).toBe('empty')
  expect(await faultOf(read(' \n', 'text/markdown'))).toBe('empty')
})

test('reads text up to 8 MiB and HTML up to 1 MiB', async () => {
  const mebibytes = (count: number) => 'word '.repeat((count * 1_048_576) / 5)
  expect(await faultOf(read(mebibytes(2)))).toBe('too_large')
  expect((await read(mebibytes(8), 'text/plain')).passages.length).toBeGreaterThan(9000)
  expect(await faultOf(read(mebibytes(10), 'text/plain'))).toBe('too_large')
})
