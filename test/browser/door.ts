// A door between the browser and a Worker, at one address whichever Worker is behind it. Notes what
// comes through, preflights too; can be shut, and can break a connection in the middle of an answer.
import { createServer, request as httpRequest, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { recordOutput } from '../support/canary.ts'

export interface DoorRequest {
  readonly method: string
  readonly path: string
  readonly headers: Readonly<Record<string, string | readonly string[] | undefined>>
  /** The browser ended the connection before the answer's end. */
  left: boolean
}

export class Door {
  readonly requests: DoorRequest[] = []
  readonly #server: Server
  #target: URL | null = null
  #cutAfter: string | null = null

  private constructor() {
    this.#server = createServer((incoming, response) => {
      const { method = '', url: path = '', headers } = incoming
      const request: DoorRequest = { method, path, headers, left: false }
      this.requests.push(request)
      response.on('close', () => {
        request.left = !response.writableFinished
      })
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
        try {
          this.#cutIfSaid(text, request, response)
          for await (const chunk of answer) {
            text += String(chunk)
            await written(response, chunk)
            this.#cutIfSaid(text, request, response)
          }
          response.end()
        } catch {
          // Either side is gone: then the other one is, too.
          incoming.socket.destroy()
        }
        recordOutput(text)
      })
      outgoing.on('error', () => incoming.socket.destroy())
      response.on('close', () => outgoing.destroy())
      incoming.pipe(outgoing)
    })
  }

  static async open(): Promise<Door> {
    const door = new Door()
    await new Promise<void>((resolve) => door.#server.listen(0, '127.0.0.1', resolve))
    return door
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port
  }

  /** Who is behind it from now on; null: nobody, connections are dropped. Forgets past requests. */
  leadTo(target: URL | null): void {
    this.#target = target
    this.#cutAfter = null
    this.requests.length = 0
  }

  /** Breaks the connection, once, when an answer of the API has said this; '': before its body. */
  cutAfter(text: string): void {
    this.#cutAfter = text
  }

  #cutIfSaid(text: string, { path }: DoorRequest, response: ServerResponse): void {
    if (this.#cutAfter === null || !isCall(path) || !text.includes(this.#cutAfter)) return
    this.#cutAfter = null
    response.flushHeaders()
    // What was said goes out first.
    response.socket?.destroySoon()
  }

  /** What was asked of the API, as `POST /v1/completions`. */
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

/** Of the API: client.js is let through. */
const isCall = (path: string) => path.startsWith('/v1/')

function written(response: ServerResponse, chunk: Uint8Array): Promise<void> {
  return new Promise((resolve, reject) => {
    response.write(chunk, (error) => (error ? reject(error) : resolve()))
  })
}
