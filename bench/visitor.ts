// One visitor's request on 127.0.0.1, however it ends: read to its end, left on purpose, broken off,
// or given up on. Never throws.
import http from 'node:http'

export interface Sent {
  readonly method?: string
  /** Default /v1/completions. */
  readonly path?: string
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: string
  /** Goes away after so long. */
  readonly leaveAfterMs?: number
  /** Longest time to its end. */
  readonly giveUpAfterMs: number
}

export interface Got {
  /** `hung`: it was not over when it should have been. */
  readonly how: 'whole' | 'left' | 'broken' | 'hung'
  /** 0: there was none. */
  readonly status: number
  readonly headers: http.IncomingHttpHeaders
  readonly text: string
}

/** Some connections are used again and again, as a page's are. */
const agent = new http.Agent({ keepAlive: true, maxSockets: 500 })

export function visit(url: URL, sent: Sent): Promise<Got> {
  const { method = 'POST', path = '/v1/completions', headers = {}, body = '' } = sent
  return new Promise((resolve) => {
    let status = 0
    let received: http.IncomingHttpHeaders = {}
    const chunks: Buffer[] = []
    const end = (how: Got['how']) => {
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
    const go = (how: Got['how']) => {
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
