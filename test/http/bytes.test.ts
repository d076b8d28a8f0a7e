// Long bodies a piece at a time: all of them, in order, and never more than was asked for.
import { expect, test } from 'vitest'
import { inPieces } from '../../src/http/bytes.ts'

const bytesOf = (length: number) => Uint8Array.from({ length }, (_, i) => i % 251)

test('inPieces() leaves a short body as it is', () => {
  const bytes = bytesOf(65_536)
  expect(inPieces(bytes)).toBe(bytes)
})

test.each([65_537, 98_304, 98_305, 1_000_000])(
  'inPieces() hands out %i bytes as they are asked for, without copying them',
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
