import { expect, test, vi } from 'vitest'
import { referencesOnce } from '../../src/html/references.ts'
import { Pages } from '../../src/page/store.ts'

test('Pages reads the character references for its first HTML page, and again after a failure', async () => {
  let type = 'text/plain'
  const readReferences = vi.fn(async () => 'ne;=2260')
  readReferences.mockRejectedValueOnce(new Error('HTTP 500'))
  const pages = new Pages({
    fetch: async () => new Response('a &ne; b', { headers: { 'content-type': type } }),
    references: referencesOnce(readReferences),
    purgedAt: () => 0,
    now: () => 1,
  })
  const url = new URL('https://example.com/')
  const page = { url, name: 'p', selector: 'body', maxChars: 99, freshSeconds: 1 }
  const read = async () => (await pages.read({ ...page, refusalOf: () => null }, null))?.text.text
  expect([await read(), readReferences.mock.calls.length]).toEqual(['a &ne; b', 0])
  type = 'text/html'
  await expect(read()).rejects.toThrow('HTTP 500')
  expect([await read(), await read()]).toEqual(['a ≠ b', 'a ≠ b'])
  expect(readReferences).toHaveBeenCalledTimes(2)
})
