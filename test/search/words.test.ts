// How texts are cut into the words of the index.
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { indexedText } from '../../src/search/words.ts'

test.each([
  ['How to configure max_tokens?', 'how to configure max tokens'],
  ["Don't — “stop” (v2.0)", 'don t stop v2 0'],
  ['Straße, STRASSE', 'strasse strasse'],
  ['Ｆｕｌｌ　ｗｉｄｔｈ ﬁne', 'full width fine'],
  // Marks belong to words.
  ['हिन्दी में', 'हिन्दी में'],
  ['नीति', 'नीति'],
  ['שָׁלוֹם עולם', 'שָׁלוֹם עולם'],
  ['🚀🚀', ''],
  ['a🚀b', 'a b'],
  ['\u0000"*()^:-+', ''],
  // Each two characters, and each one.
  ['東京都', '東京 京都 東 京 都'],
  ['猫', '猫'],
  ['Workerを使う', 'worker を使 使う を 使 う'],
  ['データ', 'デー ータ デ ー タ'],
  ['ﾃﾞｰﾀ', 'デー ータ デ ー タ'],
  ['서버를', '서버 버를 서 버 를'],
  // A character has its marks.
  ['ที่นี่', 'ที่นี่ ที่ นี่'],
  ['名前、です。', '名前 名 前 です で す'],
])('indexedText(%j)', (text, words) => {
  expect(indexedText(text)).toBe(words)
})

test('indexedText() is made of letters, digits and marks, in any text', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (text) => {
      expect(indexedText(text)).toMatch(/^[\p{L}\p{N}\p{M} ]*$/u)
    }),
  )
})
