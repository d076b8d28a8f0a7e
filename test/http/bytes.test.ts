// Sending long bodies in pieces.
import { expect, test } from 'vitest'
import { inPieces } from '../../src/http/body.ts'

const bytesOf = (length: number) => Uint8Array.from({ length }, (_, i) => i % 251)

test('inPieces() returns a short body unchanged', () => {
  const bytes = bytesOf(65_536)
  expect(inPieces(bytes)).toBe(bytes)
})

test.each([65_537, 98_304, 98_305, 1_000_000])(
  'inPieces() streams %i bytes on demand without copying them',
  async (length) => {
    const bytes = bytesOf(length)
    const stream = inPieces(bytes)
    if (stream instanceof Uint8Array) throw new TypeError('expected a stream')
    const pieces = await Array.fromAsync(stream)
    expect(Buffer.concat(pieces).equals(bytes)).toBe(true)
    for (const piece of pieces) {
      expect(piece.byteLength).toBeLessThanOrEqual(32_768)
      expect(piece.byteLength).toBeGreaterThan(0)
      expect(piece.buffer).toBe(bytes.buffer)
    }
  },
)
