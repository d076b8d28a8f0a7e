// A proxy between the browser and a Worker that can be replaced. Records all requests, including
// preflights, and can refuse connections or break them in the middle of an answer.
import { createServer, request as httpRequest, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { recordOutput } from '../support/canary.ts'

export interface ProxyRequest {
  readonly method: string
  readonly path: string
  readonly headers: Readonly<Record<string, string | readonly string[] | undefined>>
  /** The browser disconnected before the end of the answer. */
  left: boolean
}

export class EndpointProxy {
  readonly requests: ProxyRequest[] = []
  /** Answers given instead of the Worker's, by path. */
  readonly instead = new Map<string, { readonly body: string; readonly headers: Headers }>()
  readonly #server: Server
  #target: URL | null = null
  #cutAfter: string | null = null
  #gathers = false

  private constructor() {
    this.#server = createServer((incoming, response) => {
      const { method = '', url: path = '', headers } = incoming
      const request: ProxyRequest = { method, path, headers, left: false }
      this.requests.push(request)
      response.on('close', () => {
        request.left = !response.writableFinished
      })
      const answer = this.instead.get(path)
      if (answer !== undefined) {
        response.setHeaders(answer.headers).end(answer.body)
        return
      }
      if (this.#target === null) {
        incoming.socket.destroy()
        return
      }
      const { hostname, port } = this.#target
      const outgoing = httpRequest({ hostname, port, method, path, headers, agent: false })
      outgoing.on('response', async (answer) => {
        response.writeHead(answer.statusCode ?? 0, answer.headers)
        recordOutput(JSON.stringify(answer.rawHeaders))
        let text = ''
        const gathered: Uint8Array[] = []
        try {
          this.#cutIfReached(text, request, response)
          for await (const chunk of answer) {
            text += String(chunk)
            if (this.#gathers) gathered.push(chunk)
            else await written(response, chunk)
            this.#cutIfReached(text, request, response)
          }
          response.end(Buffer.concat(gathered))
        } catch {
          // If either side disconnects, disconnect the other.
          incoming.socket.destroy()
        }
        recordOutput(text)
      })
      outgoing.on('error', () => incoming.socket.destroy())
      response.on('close', () => outgoing.destroy())
      incoming.pipe(outgoing)
    })
  }

  static async open(): Promise<EndpointProxy> {
    const proxy = new EndpointProxy()
    await new Promise<void>((resolve) => proxy.#server.listen(0, '127.0.0.1', resolve))
    return proxy
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port
  }

  /** Sets the Worker and clears the recorded requests. With null, connections are dropped. */
  forwardTo(target: URL | null): void {
    this.#target = target
    this.#cutAfter = null
    this.#gathers = false
    this.requests.length = 0
  }

  /** Breaks the next API connection whose answer contains this text; '' breaks it before the body. */
  cutAfter(text: string): void {
    this.#cutAfter = text
  }

  /** From now on, sends the rest of each answer in one piece with its end, as any network may do. */
  gather(): void {
    this.#gathers = true
  }

  #cutIfReached(text: string, { path }: ProxyRequest, response: ServerResponse): void {
    if (this.#cutAfter === null || !isCall(path) || !text.includes(this.#cutAfter)) return
    this.#cutAfter = null
    response.flushHeaders()
    // Send buffered data first.
    response.socket?.destroySoon()
  }

  /** The requests to the API, as `POST /v1/completions`. */
  calls(): string[] {
    return this.requests
      .filter(({ path }) => isCall(path))
      .map(({ method, path }) => `${method} ${path}`)
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections()
    await new Promise((resolve) => this.#server.close(resolve))
  }
}

/** Requests to the API, as opposed to client.js. */
const isCall = (path: string) => path.startsWith('/v1/')

function written(response: ServerResponse, chunk: Uint8Array): Promise<void> {
  return new Promise((resolve, reject) => {
    response.write(chunk, (error) => (error ? reject(error) : resolve()))
  })
}
