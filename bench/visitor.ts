// Sends one request and reports how it ended: completely, by disconnecting on purpose, by a broken
// connection, or by a timeout. Never throws.
import http from 'node:http'

export interface Sent {
  readonly method?: string
  /** Default /v1/completions. */
  readonly path?: string
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: string
  /** Disconnect after this time. */
  readonly leaveAfterMs?: number
  /** Time out after this time. */
  readonly giveUpAfterMs: number
}

export interface Result {
  /** `hung` after a timeout. */
  readonly how: 'whole' | 'left' | 'broken' | 'hung'
  /** 0 without a response. */
  readonly status: number
  readonly headers: http.IncomingHttpHeaders
  readonly text: string
}

/** Connections are reused, as browsers do. */
const agent = new http.Agent({ keepAlive: true, maxSockets: 500 })

export function visit(url: URL, sent: Sent): Promise<Result> {
  const { method = 'POST', path = '/v1/completions', headers = {}, body = '' } = sent
  return new Promise((resolve) => {
    let status = 0
    let received: http.IncomingHttpHeaders = {}
    const chunks: Buffer[] = []
    const end = (how: Result['how']) => {
      clearTimeout(leaving)
      clearTimeout(givingUp)
      const text = Buffer.concat(chunks).toString()
      resolve({ how, status, headers: received, text })
    }
    const request = http.request(
      new URL(path, url).href,
      { method, agent, headers: { 'content-length': Buffer.byteLength(body), ...headers } },
      (response) => {
        status = response.statusCode ?? 0
        received = response.headers
        response.on('data', (chunk: Buffer) => chunks.push(chunk))
        response.on('error', () => end('broken'))
        response.on('end', () => end(response.complete ? 'whole' : 'broken'))
      },
    )
    const go = (how: Result['how']) => {
      end(how)
      request.destroy()
    }
    const leaving =
      sent.leaveAfterMs === undefined ? undefined : setTimeout(() => go('left'), sent.leaveAfterMs)
    const givingUp = setTimeout(() => go('hung'), sent.giveUpAfterMs)
    request.on('error', () => end('broken'))
    request.end(body)
  })
}
