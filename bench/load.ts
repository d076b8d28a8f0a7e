// A load with a fixed number of requests and a fixed concurrency. Every answer is read and checked.
import http from 'node:http'
import type { Question, Sent, Subject } from './subjects.ts'

export interface Load {
  readonly requests: number
  readonly atOnce: number
  readonly question: (i: number) => Question
  /** The expected text of each answer. */
  readonly text: string
  /** All requests come from one visitor. Only for hits: misses of one visitor are rate limited. */
  readonly oneVisitor?: boolean
}

const agent = new http.Agent({ keepAlive: true, maxSockets: 10_000 })
let visitors = 0

/** @throws if an answer is not a 200, incomplete or wrong */
export async function load(
  subject: Subject,
  { requests, atOnce, question, text, oneVisitor = false }: Load,
): Promise<void> {
  let next = 0
  const client = async () => {
    while (next < requests) {
      const i = next++
      const reply = await ask(subject.url, subject.sent(question(i)), { sameVisitor: oneVisitor })
      judge(reply, text, i === 0)
    }
  }
  await Promise.all(Array.from({ length: Math.min(atOnce, requests) }, client))
}

export interface Reply {
  readonly status: number
  readonly headers: http.IncomingHttpHeaders
  /** Empty without `keepText`. */
  readonly text: string
  /** The length of the body. */
  readonly bytes: number
  /** The time until the first bytes of text. */
  readonly firstTextMs: number
}

export interface AskOptions {
  /** Send as the same visitor as before. Default: as a new visitor. */
  readonly sameVisitor?: boolean
  /** Default true. */
  readonly keepText?: boolean
}

/** @param whole compare the whole text; otherwise only the length and the end, which is cheaper */
export function judge({ status, text: body, headers }: Reply, text: string, whole = true): void {
  const stream = String(headers['content-type']).startsWith('text/event-stream')
  const ended = stream ? body.endsWith('data: [DONE]\n\n') : body.endsWith('}')
  if (status !== 200 || !ended || body.length < text.length || (whole && textOf(body) !== text)) {
    throw new Error(`not the right answer: ${status} ${body.slice(0, 300)} … ${body.slice(-300)}`)
  }
}

interface Choice {
  readonly text?: string
  readonly delta?: { readonly content?: string }
  readonly message?: { readonly content?: string }
}

/** The text of an answer in any shape. */
export function textOf(body: string): string {
  const objects = body.startsWith('data:')
    ? body.split('\n\n').flatMap((event) => (event.startsWith('data: {') ? [event.slice(6)] : []))
    : [body]
  return objects
    .flatMap((object) => JSON.parse(object).choices as readonly Choice[])
    .map(({ text, delta, message }) => text ?? (delta ?? message)?.content ?? '')
    .join('')
}

const WITH_TEXT = /"(?:text|content)":"[^"]/

/** The headers of one request. */
export function headersOf({ headers, body }: Sent, sameVisitor = false) {
  if (!sameVisitor) visitors += 1
  return {
    ...headers,
    'content-length': String(Buffer.byteLength(body)),
    'cf-connecting-ip': `10.${(visitors >> 16) & 255}.${(visitors >> 8) & 255}.${visitors & 255}`,
  }
}

/** Sends one request and reads the whole answer. */
export function ask(
  url: URL,
  sent: Sent,
  { sameVisitor = false, keepText = true }: AskOptions = {},
): Promise<Reply> {
  const headers = headersOf(sent, sameVisitor)
  return new Promise((resolve, reject) => {
    const startedAt = performance.now()
    const request = http.request(
      new URL(sent.path, url).href,
      { method: 'POST', agent, headers },
      (response) => {
        let firstTextMs = 0
        let bytes = 0
        const chunks: Buffer[] = []
        response.on('data', (chunk: Buffer) => {
          if (firstTextMs === 0 && WITH_TEXT.test(String(chunk))) {
            firstTextMs = performance.now() - startedAt
          }
          bytes += chunk.length
          if (keepText) chunks.push(chunk)
        })
        response.on('error', reject)
        response.on('end', () => {
          const { statusCode: status = 0, headers } = response
          const text = Buffer.concat(chunks).toString()
          resolve({ status, headers, text, bytes, firstTextMs })
        })
      },
    )
    request.on('error', reject)
    request.end(sent.body)
  })
}
