// A static site on a real port. Its files have validators, as those of static hosts.
import { createHash } from 'node:crypto'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'

export interface SiteRequest {
  readonly path: string
  readonly status: number
}

/** What is sent for a path, or a function that answers by itself. */
export type SiteFile = string | Buffer | ((response: ServerResponse) => void)

export class SiteServer {
  /** The files by path. */
  readonly files = new Map<string, SiteFile>()
  /** The requests that were answered, in order. */
  readonly requests: SiteRequest[] = []
  /** Called before each answer, which waits for it. */
  before: (path: string) => Promise<void> | void = () => {}
  readonly #server: Server

  private constructor() {
    this.#server = createServer(async (request, response) => {
      const { url: path = '' } = request
      await this.before(path)
      const file = this.files.get(path)
      if (typeof file === 'function') {
        file(response)
        this.requests.push({ path, status: response.statusCode })
        return
      }
      const { status, headers, body } = answerTo(request, file)
      this.requests.push({ path, status })
      response.writeHead(status, headers).end(body)
    })
  }

  static async start(): Promise<SiteServer> {
    const site = new SiteServer()
    await new Promise<void>((resolve) => site.#server.listen(0, '127.0.0.1', resolve))
    return site
  }

  get origin(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`
  }

  /** The address of a file. */
  url(path: string): string {
    return this.origin + path
  }

  stop(): void {
    this.#server.closeAllConnections()
    this.#server.close()
  }
}

function answerTo({ url = '', headers: sent }: IncomingMessage, body?: string | Buffer) {
  if (body === undefined) return { status: 404, headers: {} }
  const etag = `"${createHash('sha256').update(body).digest('hex')}"`
  if (sent['if-none-match'] === etag) return { status: 304, headers: { etag } }
  return { status: 200, headers: { etag, 'content-type': typeOf(url) }, body }
}

function typeOf(path: string): string {
  if (path.endsWith('.xml')) return 'application/xml'
  return path.endsWith('.txt') ? 'text/plain; charset=utf-8' : 'text/html; charset=utf-8'
}
