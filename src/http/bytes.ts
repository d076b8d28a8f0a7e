// A body's bytes: read whole and within a bound, or sent a piece at a time. Knows no meaning of them
// and no deadline.

/**
 * All that comes; null where it is more than `maxBytes`, the rest is let go.
 *
 * @throws whatever breaks the body off
 */
export async function readBytes(
  reader: ReadableStreamDefaultReader<Uint8Array>,
  maxBytes: number,
): Promise<Uint8Array | null> {
  const pieces: Uint8Array[] = []
  let size = 0
  for (;;) {
    const { done, value } = await reader.read()
    if (done) return joined(pieces, size)
    size += value.byteLength
    if (size > maxBytes) {
      reader.cancel().catch(() => {})
      return null
    }
    pieces.push(value)
  }
}

function joined(pieces: readonly Uint8Array[], size: number): Uint8Array {
  const [only] = pieces
  if (only !== undefined && pieces.length === 1) return only
  const bytes = new Uint8Array(size)
  let at = 0
  for (const piece of pieces) {
    bytes.set(piece, at)
    at += piece.byteLength
  }
  return bytes
}

/** The most that one response hands to the platform at once. */
const PIECE_BYTES = 32_768

/**
 * A long body in pieces, so that a reader that never reads costs one piece and not a copy of all: the
 * platform copies what it is handed and keeps it until it is read. A short body stays as it is.
 */
export function inPieces(bytes: Uint8Array): Uint8Array | ReadableStream<Uint8Array> {
  if (bytes.byteLength <= 2 * PIECE_BYTES) return bytes
  let at = 0
  return new ReadableStream<Uint8Array>(
    {
      pull(controller) {
        controller.enqueue(bytes.subarray(at, at + PIECE_BYTES))
        at += PIECE_BYTES
        if (at >= bytes.byteLength) controller.close()
      },
    },
    { highWaterMark: 0 },
  )
}
