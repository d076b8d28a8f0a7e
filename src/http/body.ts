// Reads a request's JSON within its bounds: bytes, time, strict UTF-8. Knows no field of it.
import { GatewayError } from '../errors.ts'

export interface BodyOptions {
  readonly maxBytes: number
  /** To receive all of it. */
  readonly deadlineMs: number
}

const accepted = new Set(['application/json', 'text/plain'])

/**
 * The parsed body. `text/plain` is read as JSON too: it makes a browser's request "simple".
 *
 * @throws GatewayError `unsupported_media_type`, `body_too_large`, `body_timeout`, `invalid_json`.
 */
export async function readJson(request: Request, options: BodyOptions): Promise<unknown> {
  refuseType(request.headers)
  if (Number(request.headers.get('content-length') ?? 0) > options.maxBytes) {
    throw tooLarge(options.maxBytes)
  }
  const bytes = request.body === null ? new Uint8Array() : await read(request.body, options)
  return parse(decode(bytes))
}

function refuseType(headers: Headers): void {
  const type = headers.get('content-type')
  const essence = type?.split(';')[0]?.trim().toLowerCase()
  if (essence === undefined || !accepted.has(essence)) {
    throw new GatewayError(
      'unsupported_media_type',
      'Cannot read the body: expected Content-Type application/json or text/plain',
    )
  }
  const coding = headers.get('content-encoding')?.trim().toLowerCase() ?? 'identity'
  if (coding !== 'identity') {
    throw new GatewayError(
      'unsupported_media_type',
      'Cannot read the body: expected it without Content-Encoding',
    )
  }
}

async function read(
  body: ReadableStream<Uint8Array>,
  { maxBytes, deadlineMs }: BodyOptions,
): Promise<Uint8Array> {
  const reader = body.getReader()
  let timer: ReturnType<typeof setTimeout> | null = null
  const late = new Promise<never>((_, reject) => {
    const error = new GatewayError(
      'body_timeout',
      `Cannot wait longer for the body: expected all of it within ${deadlineMs} ms`,
    )
    timer = setTimeout(() => reject(error), deadlineMs)
  })
  const chunks: Uint8Array[] = []
  let size = 0
  try {
    for (;;) {
      const { done, value } = await Promise.race([reader.read(), late])
      if (done) return joined(chunks, size)
      size += value.byteLength
      if (size > maxBytes) throw tooLarge(maxBytes)
      chunks.push(value)
    }
  } catch (error) {
    reader.cancel().catch(() => {})
    if (error instanceof GatewayError) throw error
    throw new GatewayError('invalid_json', 'Cannot read the body: the connection broke')
  } finally {
    clearTimeout(timer)
  }
}

function joined(chunks: readonly Uint8Array[], size: number): Uint8Array {
  const [only] = chunks
  if (only !== undefined && chunks.length === 1) return only
  const bytes = new Uint8Array(size)
  let offset = 0
  for (const chunk of chunks) {
    bytes.set(chunk, offset)
    offset += chunk.byteLength
  }
  return bytes
}

/** Invalid UTF-8 is refused, not replaced: two broken texts would become the same one. */
function decode(bytes: Uint8Array): string {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: false }).decode(bytes)
  } catch {
    throw new GatewayError('invalid_json', 'Cannot read the body: it is not valid UTF-8')
  }
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    throw new GatewayError('invalid_json', 'Cannot read the body: it is not valid JSON')
  }
}

function tooLarge(maxBytes: number): GatewayError {
  return new GatewayError(
    'body_too_large',
    `Cannot read the body: expected at most ${maxBytes} bytes`,
  )
}
