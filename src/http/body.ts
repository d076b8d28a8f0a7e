// Reads bodies with limits on bytes and time, a request's JSON in strict UTF-8, and sends a long body
// in pieces.
import { inTime } from '../deadline.ts'
import { type Code, GatewayError } from '../errors.ts'
import { parseJson } from '../json.ts'
import { preview } from '../validation.ts'

export interface BodyOptions {
  readonly maxBytes: number
  /** The limit for receiving the whole body. */
  readonly deadlineMs: number
}

const accepted = new Set(['application/json', 'text/plain'])

/** The parsed body. @throws GatewayError those of `readText` and `parseBody` */
export async function readJson(request: Request, options: BodyOptions): Promise<unknown> {
  return parseBody(await readText(request, options))
}

/**
 * The body's text. `text/plain` is also accepted, as it needs no CORS preflight.
 *
 * @throws GatewayError `unsupported_media_type`, `body_too_large`, `body_timeout`, `invalid_json`.
 */
export async function readText(request: Request, options: BodyOptions): Promise<string> {
  refuseType(request.headers)
  const declared = request.headers.get('content-length')
  if (Number(declared ?? 0) > options.maxBytes) throw tooLarge(options.maxBytes)
  return decode(await receive(request, declared !== null, options))
}

function refuseType(headers: Headers): void {
  const type = headers.get('content-type')?.split(';')[0]?.trim().toLowerCase() ?? ''
  const coding = headers.get('content-encoding')?.trim().toLowerCase() ?? 'identity'
  if (!accepted.has(type)) {
    const got = type === '' ? 'none' : preview(type)
    throw unread(
      'unsupported_media_type',
      `expected Content-Type application/json or text/plain, got ${got}`,
    )
  }
  if (coding !== 'identity') {
    throw unread('unsupported_media_type', 'Content-Encoding is not supported')
  }
}

/** Reads a body with a declared length in one piece, since the runtime enforces that length. */
async function receive(
  request: Request,
  isDeclared: boolean,
  { maxBytes, deadlineMs }: BodyOptions,
): Promise<Uint8Array> {
  if (request.body === null) return new Uint8Array()
  const reader = isDeclared ? null : request.body.getReader()
  const reading =
    reader === null
      ? request.arrayBuffer().then((whole) => new Uint8Array(whole))
      : readBytes(reader, maxBytes)
  const late = () => {
    throw unread('body_timeout', `expected all of it within ${deadlineMs} ms`)
  }
  try {
    const bytes = await inTime(deadlineMs, reading, late)
    if (bytes !== null && bytes.byteLength <= maxBytes) return bytes
  } catch (error) {
    reader?.cancel().catch(() => {})
    if (error instanceof GatewayError) throw error
    throw unread('invalid_json', 'the connection was lost')
  }
  throw tooLarge(maxBytes)
}

/** Made with the first body: that takes milliseconds, which would delay the start of an isolate. */
let strict: TextDecoder | null = null

/** Refuses invalid UTF-8: replacing it would make different bodies equal. */
function decode(bytes: Uint8Array): string {
  try {
    strict ??= new TextDecoder('utf-8', { fatal: true, ignoreBOM: false })
    return strict.decode(bytes)
  } catch {
    throw unread('invalid_json', 'it is not valid UTF-8')
  }
}

/** @throws GatewayError `invalid_json`, without any part of the text */
export function parseBody(text: string): unknown {
  const value = parseJson(text)
  if (value !== undefined) return value
  throw unread('invalid_json', 'it is not valid JSON')
}

function tooLarge(maxBytes: number): GatewayError {
  return unread('body_too_large', `expected at most ${maxBytes} bytes`)
}

function unread(code: Code, problem: string): GatewayError {
  return new GatewayError(code, `Cannot read the body: ${problem}`)
}

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
