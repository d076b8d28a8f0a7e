// A bounded load on 127.0.0.1: so many requests, so many at a time, each read to its end.
import http from 'node:http'

export interface Load {
  readonly url: URL
  readonly requests: number
  readonly atOnce: number
  /** The body of the i-th request. */
  readonly body: (i: number) => string
  /** All from one visitor: hits are not limited, misses of one visitor would be. */
  readonly oneVisitor?: boolean
}

export interface LoadResult {
  readonly seconds: number
  /** Until the first byte of the body, median, in ms. */
  readonly firstByteMs: number
  /** Status → how many. */
  readonly statuses: ReadonlyMap<number, number>
  /** The bodies of the first few. */
  readonly samples: readonly string[]
}

const agent = new http.Agent({ keepAlive: true, maxSockets: 2000 })
let visitors = 0

export async function load({ url, requests, atOnce, body, oneVisitor }: Load): Promise<LoadResult> {
  const statuses = new Map<number, number>()
  const firsts: number[] = []
  const samples: string[] = []
  let next = 0
  const startedAt = performance.now()
  const worker = async () => {
    while (next < requests) {
      const reply = await ask(url, body(next++), oneVisitor)
      statuses.set(reply.status, (statuses.get(reply.status) ?? 0) + 1)
      firsts.push(reply.firstMs)
      if (samples.length < 5) samples.push(reply.text)
    }
  }
  await Promise.all(Array.from({ length: Math.min(atOnce, requests) }, worker))
  return {
    seconds: (performance.now() - startedAt) / 1000,
    firstByteMs: median(firsts),
    statuses,
    samples,
  }
}

export interface Reply {
  readonly status: number
  readonly text: string
  readonly firstMs: number
  readonly headers: http.IncomingHttpHeaders
}

/** One request, from a visitor nobody has seen before unless it shall be the same. */
export function ask(url: URL, body: string, sameVisitor = false): Promise<Reply> {
  const startedAt = performance.now()
  if (!sameVisitor) visitors += 1
  const address = `10.${(visitors >> 16) & 255}.${(visitors >> 8) & 255}.${visitors & 255}`
  return new Promise((resolve, reject) => {
    const request = http.request(
      new URL('/v1/completions', url).href,
      {
        method: 'POST',
        agent,
        headers: {
          'content-type': 'application/json',
          'content-length': Buffer.byteLength(body),
          'cf-connecting-ip': address,
        },
      },
      (response) => {
        let firstMs = 0
        const chunks: Buffer[] = []
        response.on('data', (chunk: Buffer) => {
          if (chunks.length === 0) firstMs = performance.now() - startedAt
          chunks.push(chunk)
        })
        response.on('error', reject)
        response.on('end', () => {
          const text = Buffer.concat(chunks).toString()
          const { statusCode = 0, headers } = response
          resolve({ status: statusCode, text, firstMs, headers })
        })
      },
    )
    request.on('error', reject)
    request.end(body)
  })
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b)
  return sorted[Math.floor(sorted.length / 2)] ?? 0
}
