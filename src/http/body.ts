// Reads a request's JSON with limits on bytes and time, and in strict UTF-8.
import { GatewayError } from '../errors.ts'
import { readBytes } from './bytes.ts'

export interface BodyOptions {
  readonly maxBytes: number
  /** The limit for receiving the whole body. */
  readonly deadlineMs: number
}

const accepted = new Set(['application/json', 'text/plain'])

/** The parsed body. @throws GatewayError those of `readText` and `parseJson` */
export async function readJson(request: Request, options: BodyOptions): Promise<unknown> {
  return parseJson(await readText(request, options))
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
      'Cannot read the body: Content-Encoding is not supported',
    )
  }
}

/** Reads a body with a declared length in one piece, since the runtime enforces that length. */
async function receive(
  request: Request,
  isDeclared: boolean,
  { maxBytes, deadlineMs }: BodyOptions,
): Promise<Uint8Array> {
  if (request.body === null) return new Uint8Array()
  if (isDeclared) {
    const whole = await within(deadlineMs, request.arrayBuffer(), () => {})
    if (whole.byteLength > maxBytes) throw tooLarge(maxBytes)
    return new Uint8Array(whole)
  }
  const reader = request.body.getReader()
  const cancel = () => void reader.cancel().catch(() => {})
  const bytes = await within(deadlineMs, readBytes(reader, maxBytes), cancel)
  if (bytes === null) throw tooLarge(maxBytes)
  return bytes
}

/**
 * @param cancel called if the work fails or takes too long
 * @throws GatewayError `body_timeout`; `invalid_json` if the connection is lost
 */
async function within<T>(ms: number, work: Promise<T>, cancel: () => void): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | null = null
  const timeout = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(tooLate(ms)), ms)
  })
  try {
    return await Promise.race([work, timeout])
  } catch (error) {
    cancel()
    if (error instanceof GatewayError) throw error
    throw new GatewayError('invalid_json', 'Cannot read the body: the connection was lost')
  } finally {
    if (timer !== null) clearTimeout(timer)
  }
}

/** Refuses invalid UTF-8: replacing it would make different bodies equal. */
function decode(bytes: Uint8Array): string {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: false }).decode(bytes)
  } catch {
    throw new GatewayError('invalid_json', 'Cannot read the body: it is not valid UTF-8')
  }
}

/** @throws GatewayError `invalid_json`, without any part of the text */
export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    throw new GatewayError('invalid_json', 'Cannot read the body: it is not valid JSON')
  }
}

function tooLate(ms: number): GatewayError {
  return new GatewayError(
    'body_timeout',
    `Cannot read the body: expected all of it within ${ms} ms`,
  )
}

function tooLarge(maxBytes: number): GatewayError {
  return new GatewayError(
    'body_too_large',
    `Cannot read the body: expected at most ${maxBytes} bytes`,
  )
}
