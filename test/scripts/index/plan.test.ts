// What `npm run index` is to do: which pages it indexes, and which it may remove.
import { expect, test } from 'vitest'
import { parseArguments } from '../../../scripts/index/arguments.ts'
import { pagesToRemove, planOf } from '../../../scripts/index/plan.ts'

const SITE = 'https://a.example'

/** The plan for a sitemap. */
async function plan(sitemap: string, ...more: string[]) {
  return await planAt('/s.xml', sitemap, ...more)
}

/** The plan for a sitemap at this path. */
async function planAt(path: string, sitemap: string, ...more: string[]) {
  const args = parseArguments(['--sitemap', SITE + path, '--url', 'https://w.example', ...more])
  if (args === null) throw new Error('no arguments')
  return await planOf(args, async ({ url }) =>
    url === SITE + path ? new Response(sitemap) : new Response('', { status: 404 }),
  )
}

const urls = (...paths: readonly string[]) =>
  `<urlset>${paths.map((path) => `<url><loc>${new URL(path, SITE)}</loc></url>`).join('')}</urlset>`

const indexed = (...paths: readonly string[]) =>
  new Map(
    paths.map((path) => {
      const { href } = new URL(path, SITE)
      return [href, { url: href, questions: 0 }]
    }),
  )

test('indexes each page of the sitemap once, and the pages that are given beside it', async () => {
  const { pages, skipped } = await plan(
    urls('/a', '/a/', '/b', 'https://b.example/c', '/d?e=f'),
    `${SITE}/llms-full.txt`,
    `${SITE}/b.html`,
  )
  // A given address replaces that of the sitemap.
  expect(pages.map(String)).toEqual([`${SITE}/a`, `${SITE}/b.html`, `${SITE}/llms-full.txt`])
  expect(skipped.map(({ reason }) => reason)).toEqual([
    `its origin is not ${SITE}`,
    'its address has a query',
  ])
})

test('removes indexed pages of the same origin that left the sitemap', async () => {
  const found = await plan(urls('/a'), `${SITE}/llms-full.txt`)
  const known = indexed('/a', '/llms-full.txt', '/gone', 'https://b.example/gone')
  expect(pagesToRemove(found, known, found.pages)).toEqual([`${SITE}/gone`])
})

test.each([
  ['no page', urls(), 'https://a.example/s.xml has no page of https://a.example'],
  ['only pages of another origin', urls('https://b.example/'), 'has no page of'],
  [
    'an address that is not absolute',
    `${urls('/a').replace('</urlset>', '')}<url><loc>/b</loc></url></urlset>`,
    'could not be read completely',
  ],
  [
    'a sitemap of an index that cannot be read',
    `<sitemapindex><sitemap><loc>${SITE}/gone.xml</loc></sitemap></sitemapindex>`,
    'has no page of',
  ],
])('removes nothing if the sitemap has %s', async (_, sitemap, reason) => {
  const found = await plan(sitemap, `${SITE}/given`)
  expect(pagesToRemove(found, indexed('/gone'), found.pages)).toEqual([])
  expect(found.keepsBecause).toContain(reason)
})

test('a sitemap in a folder removes pages of that folder only, if it lists no others', async () => {
  const known = indexed('/docs/gone', '/blog/a', '/docs')
  const own = await planAt('/docs/s.xml', urls('/docs/a', '/docs/b/c'))
  expect(pagesToRemove(own, known, own.pages)).toEqual([`${SITE}/docs/gone`])
  const all = await planAt('/docs/s.xml', urls('/docs/a', '/b'))
  expect(pagesToRemove(all, known, all.pages)).toHaveLength(3)
})

test('removes nothing with --keep', async () => {
  const found = await plan(urls('/a'), '--keep')
  expect(pagesToRemove(found, indexed('/gone'), found.pages)).toEqual([])
  expect(found.keepsBecause).toBeNull()
})
