// A visitor over real sockets: plain HTTP, streams that can be left in the middle, and raw bytes
// that no HTTP library would send. Everything it receives is searched for the canary key.
import { request as httpRequest, type IncomingHttpHeaders, type IncomingMessage } from 'node:http'
import { connect } from 'node:net'
import { recordOutput } from './canary.ts'

/** The page that calls, and the host it calls: not loopback, where the origin policy is lenient. */
export const ORIGIN = 'https://site.example'
export const HOST = 'edge.example'

let addresses = 0

/** A visitor nobody has seen yet: limits for one visitor are for tests that want them. */
export function newAddress(): string {
  addresses += 1
  return `2001:db8:${(addresses >> 16).toString(16)}:${(addresses & 0xffff).toString(16)}::1`
}

export interface ClientRequest {
  readonly method?: string
  /** Default /v1/completions. */
  readonly path?: string
  /** Null leaves a header out that is sent by default. */
  readonly headers?: Readonly<Record<string, string | readonly string[] | null>>
  /** A string or bytes as they are, anything else as JSON. Absent: no body. */
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

  /** Resolves with the response's head; the body is the caller's to read or to leave. */
  open(sent: ClientRequest): Promise<IncomingResponse> {
    return this.start(sent).response
  }

  /** Sends at once; may be left before there is any response. */
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
   * Writes these bytes to a socket, piece by piece as they come, and reads until the Worker closes
   * it. The request should say `Connection: close`.
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
      // The Worker may answer and close while we still write.
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

/** A response whose body is still coming. */
export class IncomingResponse {
  readonly status: number
  readonly headers: IncomingHttpHeaders
  /** The connection broke before the body's end. */
  broken = false
  #text = ''
  #ended = false
  #look: (() => void) | null = null
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
      this.#look?.()
    })
    message.on('error', () => {
      this.broken = true
    })
    message.on('close', () => {
      this.#ended = true
      recordOutput(this.#text)
      this.#look?.()
    })
  }

  /** Waits until the body so far holds `text`. @throws when it ends without. */
  async until(text: string): Promise<void> {
    await this.#wait(() => this.#text.includes(text))
    if (!this.#text.includes(text)) {
      throw new Error(`the body ended without ${JSON.stringify(text)}: ${this.#text}`)
    }
  }

  /** Waits for more of the body than there is now, or for its end. */
  async more(): Promise<void> {
    const { length } = this.#text
    await this.#wait(() => this.#text.length > length)
  }

  /** The body as far as it has come. */
  get soFar(): string {
    return this.#text
  }

  /** The whole body, once it is over. */
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
      this.#look = () => {
        if (!this.#ended && !enough()) return
        this.#look = null
        resolve()
      }
      this.#look()
    })
  }
}

/** `fetch` for SDKs, searched like everything else. */
export const recordedFetch: typeof fetch = async (input, init) => {
  const response = await fetch(input, init)
  recordOutput(JSON.stringify([...response.headers]))
  const copy = response.clone()
  // A stream that is left has no end to read.
  copy.text().then(recordOutput, () => {})
  return response
}

function bytesOf(body: unknown): Buffer | null {
  if (body === undefined) return null
  if (typeof body === 'string') return Buffer.from(body)
  return Buffer.from(body instanceof Uint8Array ? body : JSON.stringify(body))
}
