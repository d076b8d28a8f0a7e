// A visitor of a gateway: whole answers, streams that can be left, and, over real sockets, raw bytes
// that no HTTP library would send and readers that do not read. Everything it receives is searched
// for the canary key.
import { request as httpRequest } from 'node:http'
import { connect } from 'node:net'
import { recordOutput } from './canary.ts'
import { unchunked } from './unchunked.ts'

/** The calling page and the host. Not loopback, because the origin policy is lenient there. */
export const ORIGIN = 'https://site.example'
export const HOST = 'edge.example'
export const OPERATOR_TOKEN = 'operator-token-of-the-tests-Xq7'

let addresses = 0

/** A new address for each request, so that limits per visitor only affect tests that set one. */
export function newAddress(): string {
  addresses += 1
  return `2001:db8:${(addresses >> 16).toString(16)}:${(addresses & 0xffff).toString(16)}::1`
}

export interface ClientRequest {
  readonly method?: string
  /** Default /v1/completions. */
  readonly path?: string
  /** A null value removes a default header. */
  readonly headers?: Readonly<Record<string, string | readonly string[] | null>>
  /** Strings and bytes are sent as they are, anything else as JSON. Absent: no body. */
  readonly body?: unknown
}

/** By lower-case name. The gateway sends none twice. */
type ReplyHeaders = Readonly<Record<string, string | undefined>>

/** A whole response. */
export interface Reply {
  readonly status: number
  readonly headers: ReplyHeaders
  readonly text: string
}

/** A request with all its headers. */
export interface SentRequest {
  readonly method: string
  readonly path: string
  readonly headers: Readonly<Record<string, string | readonly string[]>>
  readonly body: Buffer<ArrayBuffer> | null
}

/** How a request gets to a gateway: over a socket, or by a call in process. */
export type Transport = (sent: SentRequest) => PendingRequest

export class Client {
  /** Sends immediately; the caller can disconnect before the response. */
  readonly start: (sent: ClientRequest) => PendingRequest

  constructor(transport: Transport) {
    this.start = ({ method = 'GET', path = '/v1/completions', headers = {}, body }) => {
      const bytes = bytesOf(body)
      const all: ClientRequest['headers'] = {
        host: HOST,
        origin: ORIGIN,
        'cf-connecting-ip': newAddress(),
        ...(bytes === null ? {} : { 'content-type': 'application/json' }),
        ...headers,
      }
      const given = Object.entries(all).flatMap(([name, value]) =>
        value === null ? [] : [[name, value] as const],
      )
      return transport({ method, path, headers: Object.fromEntries(given), body: bytes })
    }
  }

  /** `POST /v1/completions` with this JSON, from the allowed page. */
  complete(body: unknown, headers: ClientRequest['headers'] = {}): Promise<Reply> {
    return this.send({ method: 'POST', body, headers })
  }

  async send(sent: ClientRequest): Promise<Reply> {
    const incoming = await this.open(sent)
    return { status: incoming.status, headers: incoming.headers, text: await incoming.rest() }
  }

  /** Resolves with the response head; the caller may read the body or disconnect. */
  open(sent: ClientRequest): Promise<IncomingResponse> {
    return this.start(sent).response
  }
}

/** Sends each request over a connection of its own. */
export function overSocket({ hostname, port }: URL): Transport {
  return ({ method, path, headers, body }) => {
    const all = { ...headers, ...(body === null ? {} : { 'content-length': body.length }) }
    const outgoing = httpRequest({ hostname, port, method, path, agent: false, headers: all })
    const leave = () => void outgoing.destroy()
    const response = new Promise<IncomingResponse>((resolve, reject) => {
      outgoing.on('response', (message) => {
        const { statusCode = 0, headers: received } = message
        const incoming = new IncomingResponse(statusCode, received as ReplyHeaders, leave)
        message.setEncoding('utf8')
        message.on('data', (text: string) => incoming.receive(text))
        message.on('error', () => {
          incoming.broken = true
        })
        message.on('close', () => incoming.end())
        resolve(incoming)
      })
      outgoing.on('error', reject)
    })
    response.catch(() => {})
    outgoing.end(body ?? undefined)
    return { response, leave }
  }
}

export interface PendingRequest {
  readonly response: Promise<IncomingResponse>
  leave(): void
}

/** A response whose body may be incomplete. */
export class IncomingResponse {
  readonly status: number
  readonly headers: ReplyHeaders
  /** Whether the connection broke before the end of the body. */
  broken = false
  #text = ''
  #ended = false
  #check: (() => void) | null = null
  readonly #leave: () => void

  constructor(status: number, headers: ReplyHeaders, leave: () => void) {
    this.status = status
    this.headers = headers
    this.#leave = leave
    recordOutput(JSON.stringify(headers))
  }

  receive(text: string): void {
    this.#text += text
    this.#check?.()
  }

  end(): void {
    this.#ended = true
    recordOutput(this.#text)
    this.#check?.()
  }

  /** Waits until the body contains `text`. @throws when it ends without it */
  async until(text: string): Promise<void> {
    await this.#wait(() => this.#text.includes(text))
    if (!this.#text.includes(text)) {
      throw new Error(`the body ended without ${JSON.stringify(text)}: ${this.#text}`)
    }
  }

  /** Waits until the body grows or ends. */
  async more(): Promise<void> {
    const { length } = this.#text
    await this.#wait(() => this.#text.length > length)
  }

  /** The body received so far. */
  get soFar(): string {
    return this.#text
  }

  /** The whole body, once it has ended. */
  async rest(): Promise<string> {
    await this.#wait(() => false)
    return this.#text
  }

  /** Breaks the connection, as a closed tab does. */
  leave(): void {
    this.#leave()
  }

  #wait(enough: () => boolean): Promise<void> {
    return new Promise((resolve) => {
      this.#check = () => {
        if (!this.#ended && !enough()) return
        this.#check = null
        resolve()
      }
      this.#check()
    })
  }
}

/**
 * Writes these bytes to a socket, piece by piece, and reads until the Worker closes it. The request
 * should have `Connection: close`.
 */
export async function sendRaw(
  url: URL,
  pieces: Iterable<string | Uint8Array> | AsyncIterable<string>,
): Promise<string> {
  const socket = connect({ host: url.hostname, port: Number(url.port) })
  let text = ''
  let open = true
  socket.setEncoding('utf8')
  const over = new Promise<void>((resolve) => {
    socket.on('data', (data) => {
      text += data
    })
    socket.on('close', () => {
      open = false
      resolve()
    })
    // The Worker may respond and close while we are still writing.
    socket.on('error', () => {})
  })
  for await (const piece of pieces) {
    if (!open) break
    socket.write(piece)
  }
  await over
  recordOutput(text)
  return text
}

/** Sends a POST over a socket that is not read before `rest()`. */
export function idleReader(url: URL, body: object, headers: readonly string[] = []) {
  const socket = connect({ host: url.hostname, port: Number(url.port) })
  socket.on('error', () => {})
  socket.pause()
  const text = JSON.stringify(body)
  const lines = [
    'POST /v1/completions HTTP/1.1',
    `Host: ${HOST}`,
    `Origin: ${ORIGIN}`,
    `CF-Connecting-IP: ${newAddress()}`,
    'Content-Type: application/json',
    `Content-Length: ${Buffer.byteLength(text)}`,
    ...headers,
  ]
  socket.write(`${lines.join('\r\n')}\r\n\r\n${text}`)
  return {
    socket,
    /** The whole body. The request should have `Connection: close`. */
    async rest(): Promise<string> {
      const parts: Buffer[] = []
      for await (const part of socket) parts.push(part as Buffer)
      const whole = Buffer.concat(parts)
      const received = unchunked(whole.subarray(whole.indexOf('\r\n\r\n') + 4))
      recordOutput(received)
      return received
    },
  }
}

/** `fetch` for SDKs. Responses are searched for the canary key, too. */
export const recordedFetch: typeof fetch = async (input, init) => {
  const response = await fetch(input, init)
  recordOutput(JSON.stringify([...response.headers]))
  const copy = response.clone()
  // The copy of a cancelled stream rejects.
  copy.text().then(recordOutput, () => {})
  return response
}

function bytesOf(body: unknown): Buffer<ArrayBuffer> | null {
  if (body === undefined) return null
  if (typeof body === 'string') return Buffer.from(body)
  return Buffer.from(body instanceof Uint8Array ? body : JSON.stringify(body))
}
