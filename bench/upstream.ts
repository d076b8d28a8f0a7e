// A chat upstream on 127.0.0.1 that answers at once: so many chunks of so many characters.
import http from 'node:http'
import type { AddressInfo } from 'node:net'

export interface BenchUpstream {
  readonly url: string
  calls(): number
  /** Answers of this shape from now on; `held` keeps the last chunk back until it resolves. */
  answer(shape: {
    readonly chunks: number
    readonly chars: number
    readonly held?: Promise<void>
  }): void
  stop(): Promise<void>
}

export async function startUpstream(): Promise<BenchUpstream> {
  let calls = 0
  let shape: Parameters<BenchUpstream['answer']>[0] = { chunks: 1, chars: 100 }
  const server = http.createServer((request, response) => {
    calls += 1
    request.resume()
    request.on('end', async () => {
      const { chunks, chars, held } = shape
      response.writeHead(200, { 'content-type': 'text/event-stream' })
      const text = 'lorem ipsum '.repeat(Math.ceil(chars / 12)).slice(0, chars)
      for (let i = 0; i < chunks; i++) {
        if (i === chunks - 1) await held
        response.write(event({ content: text }, null))
        // Each chunk in a packet of its own, as models send them.
        await new Promise((resolve) => setImmediate(resolve))
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
