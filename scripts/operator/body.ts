// Reads what a site or a server answers, which may have no end, or be small on the way and large when
// it is decompressed.

interface Body {
  readonly bytes: Buffer
  /** Whether there was more. */
  readonly isCut: boolean
}

/** The first bytes of a body. If it has more, its connection is closed. */
export async function readAtMost({ body }: Response, maxBytes: number): Promise<Body> {
  const parts: Uint8Array[] = []
  let size = 0
  for await (const part of body ?? []) {
    parts.push(part)
    size += part.length
    if (size > maxBytes) break
  }
  return { bytes: Buffer.concat(parts, Math.min(size, maxBytes)), isCut: size > maxBytes }
}
