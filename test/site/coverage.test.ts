// The list of the site's pages in the dashboard: which addresses and which prompts it takes.
import { expect, test } from 'vitest'
import { addressesIn, pageVariables } from '../../src/site/coverage.js'

test('addressesIn() reads sitemaps and lists, each address once', () => {
  const sitemap = `<?xml version="1.0"?><urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">
    <url><loc>https://a.example/1</loc></url><url><loc> https://a.example/2?x=1&amp;y=2 </loc></url></urlset>`
  expect(addressesIn(sitemap)).toEqual(['https://a.example/1', 'https://a.example/2?x=1&y=2'])
  expect(addressesIn('https://a.example/1\nhttps://a.example/1 https://a.example/2')).toEqual([
    'https://a.example/1',
    'https://a.example/2',
  ])
  expect(addressesIn('nothing')).toEqual([])
})

test('pageVariables() names the page variable of each prompt that has one', () => {
  const prompts = [
    { id: 'summary', variables: { tone: {}, page: { from: 'url' } } },
    { id: 'haiku', variables: { topic: {} } },
  ]
  expect([...pageVariables(prompts)]).toEqual([['summary', 'page']])
})
