// A chat upstream on 127.0.0.1: so many chunks of so many characters, at once or paced.
import http from 'node:http'
import type { AddressInfo } from 'node:net'

export interface Answer {
  readonly chunks: number
  readonly chars: number
  /** Between two chunks; absent: as fast as they can be written. */
  readonly paceMs?: number
  /** Keeps the last chunk back until it resolves. */
  readonly held?: Promise<void>
}

export interface BenchUpstream {
  readonly url: string
  calls(): number
  /** Answers of this shape from now on. */
  answer(shape: Answer): void
  stop(): Promise<void>
}

export async function startUpstream(): Promise<BenchUpstream> {
  let calls = 0
  let shape: Answer = { chunks: 1, chars: 100 }
  const server = http.createServer((request, response) => {
    calls += 1
    request.resume()
    request.on('end', async () => {
      const { chunks, chars, paceMs, held } = shape
      response.writeHead(200, { 'content-type': 'text/event-stream' })
      const text = 'lorem ipsum '.repeat(Math.ceil(chars / 12)).slice(0, chars)
      for (let i = 0; i < chunks; i++) {
        if (i === chunks - 1) await held
        response.write(event({ content: text }, null))
        // Each chunk in a packet of its own, as models send them; who reads late finds several.
        await new Promise((resolve) => {
          if (paceMs === undefined) setImmediate(resolve)
          else setTimeout(resolve, paceMs)
        })
      }
      response.write(event({}, 'stop'))
      const usage = { prompt_tokens: 10, completion_tokens: chunks, total_tokens: 10 + chunks }
      response.write(`data: ${JSON.stringify({ id: 'up', model: 'm', choices: [], usage })}\n\n`)
      response.end('data: [DONE]\n\n')
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  return {
    url: `http://127.0.0.1:${port}/v1`,
    calls: () => calls,
    answer: (next) => {
      shape = next
    },
    stop: () => new Promise((resolve) => server.close(() => resolve())),
  }
}

function event(delta: object, finish_reason: string | null): string {
  const choices = [{ index: 0, delta, finish_reason }]
  return `data: ${JSON.stringify({ id: 'up', object: 'chat.completion.chunk', created: 1, model: 'm', choices })}\n\n`
}
