// `npm run check:lint` refuses words that this project has retired.
import { expect, test } from 'vitest'
import { retiredWords } from '../../scripts/check-words.ts'

test('a retired word is reported with its line and what to write instead', () => {
  expect(retiredWords('src/x.ts', '// fine\n// Whoever comes aboard.\n')).toEqual([
    'src/x.ts:2: "aboard": write reader, follower',
  ])
})

test.each([
  ['a note the repository does not contain', '// as PROTOCOL 2.3 describes'],
  ['a code of such notes', "test('a cut answer (E10) is not stored')"],
  ['a stiff turn', '// There is none, and nothing is done in vain.'],
])('%s is reported', (_, line) => {
  expect(retiredWords('src/x.ts', line)).not.toEqual([])
})

test.each([
  '// The reader disconnects.',
  "test('returns 429 (Retry-After)')",
  'const keepAlive = 1',
])('%s is plain English', (line) => {
  expect(retiredWords('src/x.ts', line)).toEqual([])
})
