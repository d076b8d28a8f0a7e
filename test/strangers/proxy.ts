// A proxy in front of the Worker. It gives each request without an address one of its own, so that no
// limit per visitor is reached, and it can change responses: a program that does not notice judges nothing.
import { createServer, type IncomingMessage, request, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { newAddress } from '../support/client.ts'

/** Changes a response, of which it has the whole body, even of an event stream. */
export type Mutation = (response: {
  readonly status: number
  readonly headers: IncomingMessage['headers']
  readonly body: string
}) => {
  readonly status?: number
  readonly headers?: IncomingMessage['headers']
  readonly body?: string
}

/** By the first segment of paths, which is taken off. Null: each byte is passed on when it arrives. */
export type Mutations = ReadonlyMap<string, Mutation | null>

/** As many bytes as the Worker takes, and more than Node does. */
const MAX_HEADERS = 1 << 20

export class JudgedProxy {
  readonly #server: Server

  private constructor(target: URL, mutations: Mutations) {
    this.#server = createServer({ maxHeaderSize: MAX_HEADERS }, (asked, response) => {
      const [, first = ''] = asked.url?.split('/') ?? []
      const mutation = mutations.get(first)
      const headers = { 'cf-connecting-ip': newAddress(), ...asked.headers }
      const { method, url = '/' } = asked
      const path = mutation === undefined ? url : url.slice(first.length + 1)
      const { hostname, port } = target
      const onward = request({ hostname, port, method, path, headers }, async (answer) => {
        const { statusCode = 502 } = answer
        if (!mutation) {
          response.writeHead(statusCode, answer.rawHeaders)
          answer.pipe(response)
          return
        }
        const body = await textOf(answer)
        const { 'content-length': _, 'transfer-encoding': __, ...rest } = answer.headers
        const changed = mutation({ status: statusCode, headers: rest, body })
        response.writeHead(changed.status ?? statusCode, changed.headers ?? rest)
        response.end(changed.body ?? body)
      })
      onward.on('error', () => response.destroy())
      response.on('close', () => onward.destroy())
      asked.pipe(onward)
    })
  }

  static async start(target: URL, mutations: Mutations = new Map()): Promise<JudgedProxy> {
    const proxy = new JudgedProxy(target, mutations)
    await new Promise<void>((resolve) => proxy.#server.listen(0, '127.0.0.1', resolve))
    return proxy
  }

  get origin(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`
  }

  async stop(): Promise<void> {
    this.#server.closeAllConnections()
    await new Promise<void>((resolve) => this.#server.close(() => resolve()))
  }
}

async function textOf(answer: IncomingMessage): Promise<string> {
  const parts: Buffer[] = []
  for await (const part of answer) parts.push(part)
  return Buffer.concat(parts).toString()
}
