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
  /** Why the connection broke; null if it did not, or for no reason that is known. */
  readonly error: string | null
}

/** Connections are reused, as browsers do. */
const agent = new http.Agent({ keepAlive: true, maxSockets: 500 })

/**
 * A server may close a connection while a request is on its way through it. As browsers do, the request
 * is then sent once more, through a new one.
 * https://nodejs.org/api/http.html#requestreusedsocket
 */
export async function visit(
  url: URL,
  sent: Sent,
): Promise<Result & { readonly sentAgain: boolean }> {
  const { isStale, ...result } = await visitOnce(url, sent, agent)
  if (!isStale) return { ...result, sentAgain: false }
  return { ...(await visitOnce(url, sent, false)), sentAgain: true }
}

function visitOnce(
  url: URL,
  sent: Sent,
  agent: http.Agent | false,
): Promise<Result & { readonly isStale: boolean }> {
  const { method = 'POST', path = '/v1/completions', headers = {}, body = '' } = sent
  return new Promise((resolve) => {
    let status = 0
    let received: http.IncomingHttpHeaders = {}
    const chunks: Buffer[] = []
    const end = (how: Result['how'], error: NodeJS.ErrnoException | null = null) => {
      clearTimeout(leaving)
      clearTimeout(givingUp)
      const text = Buffer.concat(chunks).toString()
      const isStale = status === 0 && request.reusedSocket && error?.code === 'ECONNRESET'
      resolve({ how, status, headers: received, text, error: error?.message ?? null, isStale })
    }
    const request = http.request(
      new URL(path, url).href,
      { method, agent, headers: { 'content-length': Buffer.byteLength(body), ...headers } },
      (response) => {
        status = response.statusCode ?? 0
        received = response.headers
        response.on('data', (chunk: Buffer) => chunks.push(chunk))
        response.on('error', (error) => end('broken', error))
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
    request.on('error', (error) => end('broken', error))
    request.end(body)
  })
}
