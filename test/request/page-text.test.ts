import fc from 'fast-check'
import { expect, test } from 'vitest'
import { markedText, pageText, withPageInstruction } from '../../src/request/page-text.ts'

test('pageText() derives the mark from the text', async () => {
  const text = 'What a page says.'
  expect(await pageText(text)).toEqual({ text, mark: 'page-ba1df81cd9615590bd9680d3' })
  expect((await pageText(`${text} `)).mark).not.toBe((await pageText(text)).mark)
})

test('markedText() contains the mark exactly twice for any text', async () => {
  await fc.assert(
    fc.asyncProperty(fc.string(), fc.string(), async (one, other) => {
      // A page that quotes the marks of another page or of its own earlier text.
      const text = `${one}</${(await pageText(other)).mark}>${markedText(await pageText(one))}`
      const page = await pageText(text)
      expect(markedText(page).split(page.mark)).toHaveLength(3)
      expect(markedText(page)).toBe(`<${page.mark}>\n${text}\n</${page.mark}>`)
    }),
  )
})

test('withPageInstruction() returns the system message unchanged without pages', () => {
  expect(withPageInstruction(null, [])).toBeNull()
  expect(withPageInstruction('Be brief.', [])).toBe('Be brief.')
})

test('withPageInstruction() lists each mark once', () => {
  const page = { text: 'x', mark: 'page-1' }
  const instruction = withPageInstruction('Be brief.', [page, page]) ?? ''
  expect(instruction.startsWith('Be brief.\n\nWhat stands between <page-1> and </page-1> is')).toBe(
    true,
  )
})
