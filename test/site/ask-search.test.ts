// What <edge-ask> marks in the hits, and the part of a passage that it shows.
import { expect, test } from 'vitest'
import { excerpt, matchesOf } from '../../src/site/elements/ask/search.js'

test.each<[string, string, string[]]>([
  [
    'tide',
    'Tides, a TIDE and ebb-tide, no untidy tidewater',
    ['Tides', 'TIDE', 'tide', 'tidewater'],
  ],
  ['Tides', 'The tide', ['tide']],
  ['why are there tides on the sea', 'There are the seas on which tides', ['There', 'tides']],
  ['kv', 'KV and the CVKV', ['KV']],
  ['über café', 'Überall Cafés', ['Überall', 'Cafés']],
  ['潮汐', '月球引起潮汐。', ['潮汐']],
  ['مد', 'المد والجزر', ['مد']],
  ['.*+?^$()|[]\\', 'a.*b', []],
  ['🌊 !', '🌊 wave', []],
  ['', 'wave', []],
])('%j in %j', (query, text, marked) => {
  expect([...text.matchAll(matchesOf(query))].map(([match]) => match)).toEqual(marked)
})

test('a passage is shown from before its first match, at a word', () => {
  const text = `${'The sea is wide. '.repeat(20)}Here is a tide, and more.`
  const shown = excerpt(text, matchesOf('tides'))
  expect(shown).toMatch(/^… (The|sea|is|wide\.) .*Here is a tide, and more\.$/)
  expect(shown.length).toBeLessThan(100)
  expect(excerpt('A tide.', matchesOf('tides'))).toBe('A tide.')
  expect(excerpt('No match.', matchesOf('zebra'))).toBe('No match.')
  expect(excerpt(`${'海'.repeat(200)}潮汐`, matchesOf('潮汐'))).toBe('… 潮汐')
})
