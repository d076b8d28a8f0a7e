// A visitor over real sockets: plain HTTP, streams that can be disconnected, and raw bytes that no
// HTTP library would send. Everything it receives is searched for the canary key.
import { request as httpRequest, type IncomingHttpHeaders, type IncomingMessage } from 'node:http'
import { connect } from 'node:net'
import { recordOutput } from './canary.ts'

/** The calling page and the host. Not loopback, because the origin policy is lenient there. */
export const ORIGIN = 'https://site.example'
export const HOST = 'edge.example'

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

/** A whole response. */
export interface Reply {
  readonly status: number
  readonly headers: IncomingHttpHeaders
  readonly text: string
}

export class Client {
  readonly #url: URL

  constructor(url: URL) {
    this.#url = url
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

  /** Sends immediately; the caller can disconnect before the response. */
  start({
    method = 'GET',
    path = '/v1/completions',
    headers = {},
    body,
  }: ClientRequest): PendingRequest {
    const bytes = bytesOf(body)
    const all = {
      host: HOST,
      origin: ORIGIN,
      'cf-connecting-ip': newAddress(),
      ...(bytes === null
        ? {}
        : { 'content-type': 'application/json', 'content-length': String(bytes.length) }),
      ...headers,
    }
    const { hostname, port } = this.#url
    const outgoing = httpRequest({ hostname, port, method, path, agent: false })
    for (const [name, value] of Object.entries(all)) {
      if (value !== null) outgoing.setHeader(name, value)
      else outgoing.removeHeader(name)
    }
    const response = new Promise<IncomingResponse>((resolve, reject) => {
      outgoing.on('response', (message) =>
        resolve(new IncomingResponse(message, () => outgoing.destroy())),
      )
      outgoing.on('error', reject)
    })
    response.catch(() => {})
    outgoing.end(bytes ?? undefined)
    return { response, leave: () => outgoing.destroy() }
  }

  /**
   * Writes these bytes to a socket, piece by piece, and reads until the Worker closes it. The
   * request should have `Connection: close`.
   */
  async raw(pieces: Iterable<string | Uint8Array> | AsyncIterable<string>): Promise<string> {
    const socket = connect({ host: this.#url.hostname, port: Number(this.#url.port) })
    let text = ''
    socket.setEncoding('utf8')
    const over = new Promise<void>((resolve) => {
      socket.on('data', (data) => {
        text += data
      })
      socket.on('close', () => resolve())
      // The Worker may respond and close while we are still writing.
      socket.on('error', () => resolve())
    })
    let open = true
    over.then(() => {
      open = false
    })
    for await (const piece of pieces) {
      if (!open) break
      socket.write(piece)
    }
    await over
    socket.destroy()
    recordOutput(text)
    return text
  }
}

export interface PendingRequest {
  readonly response: Promise<IncomingResponse>
  leave(): void
}

/** A response whose body may be incomplete. */
export class IncomingResponse {
  readonly status: number
  readonly headers: IncomingHttpHeaders
  /** Whether the connection broke before the end of the body. */
  broken = false
  #text = ''
  #ended = false
  #check: (() => void) | null = null
  readonly #leave: () => void

  constructor(message: IncomingMessage, leave: () => void) {
    this.status = message.statusCode ?? 0
    this.headers = message.headers
    this.#leave = leave
    recordOutput(JSON.stringify(message.rawHeaders))
    message.setEncoding('utf8')
    message.on('data', (text: string) => {
      recordOutput(text)
      this.#text += text
      this.#check?.()
    })
    message.on('error', () => {
      this.broken = true
    })
    message.on('close', () => {
      this.#ended = true
      recordOutput(this.#text)
      this.#check?.()
    })
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

/** `fetch` for SDKs. Responses are searched for the canary key, too. */
export const recordedFetch: typeof fetch = async (input, init) => {
  const response = await fetch(input, init)
  recordOutput(JSON.stringify([...response.headers]))
  const copy = response.clone()
  // The copy of a cancelled stream rejects.
  copy.text().then(recordOutput, () => {})
  return response
}

function bytesOf(body: unknown): Buffer | null {
  if (body === undefined) return null
  if (typeof body === 'string') return Buffer.from(body)
  return Buffer.from(body instanceof Uint8Array ? body : JSON.stringify(body))
}
