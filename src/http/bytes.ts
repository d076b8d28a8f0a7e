// Reads a body up to a size limit, and sends a long body in pieces.

/**
 * Reads all bytes; null if there are more than `maxBytes`, in which case the rest is cancelled.
 *
 * @throws the error of the stream
 */
export async function readBytes(
  reader: ReadableStreamDefaultReader<Uint8Array>,
  maxBytes: number,
): Promise<Uint8Array | null> {
  const pieces: Uint8Array[] = []
  let size = 0
  for (;;) {
    const { done, value } = await reader.read()
    if (done) return concatenate(pieces, size)
    size += value.byteLength
    if (size > maxBytes) {
      reader.cancel().catch(() => {})
      return null
    }
    pieces.push(value)
  }
}

function concatenate(pieces: readonly Uint8Array[], size: number): Uint8Array {
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

/** The number of bytes of a response that are passed to the platform at a time. */
const PIECE_BYTES = 32_768

/**
 * Sends a long body in pieces. The platform copies everything it is given and keeps it until it is
 * read, so a client that does not read costs one piece instead of a copy of the whole body. A short
 * body is returned unchanged.
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
