// A chat upstream on 127.0.0.1 whose answers have a given number and size of events, paced or not.
import http from 'node:http'
import type { AddressInfo } from 'node:net'
import { setImmediate as nextTurn, setTimeout as passed } from 'node:timers/promises'

export interface Answer {
  readonly events: number
  /** Characters per event. */
  readonly chars: number
  /** The time between two events. Default: as fast as possible, each in its own packet. */
  readonly paceMs?: number
  /** Called for each request. Delays everything but the headers until it resolves. */
  readonly held?: () => Promise<void>
}

export interface BenchUpstream {
  /** Its address, including `/v1`. */
  readonly url: string
  calls(): number
  /** Sets the shape of subsequent answers. */
  answer(shape: Answer): void
  /** The text of the current answer. */
  text(): string
  stop(): Promise<void>
}

export async function startUpstream(): Promise<BenchUpstream> {
  let calls = 0
  let shape: Answer = { events: 1, chars: 100 }
  const server = http.createServer((request, response) => {
    calls += 1
    let body = ''
    request.on('data', (bytes) => {
      body += bytes
    })
    request.on('end', () => {
      const stream = /"stream": ?true/.test(body)
      ;(stream ? events(response, shape) : whole(response, shape)).catch(() => response.destroy())
    })
  })
  server.keepAliveTimeout = 60_000
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', 4096, resolve))
  const { port } = server.address() as AddressInfo
  return {
    url: `http://127.0.0.1:${port}/v1`,
    calls: () => calls,
    answer: (next) => {
      shape = next
    },
    text: () => pieceOf(shape).repeat(shape.events),
    stop: () => new Promise((resolve) => server.close(() => resolve())),
  }
}

const pieceOf = ({ chars }: Answer) => 'lorem ipsum '.repeat(Math.ceil(chars / 12)).slice(0, chars)

const usageOf = ({ events }: Answer) => ({
  prompt_tokens: 10,
  completion_tokens: events,
  total_tokens: 10 + events,
})

async function events(response: http.ServerResponse, shape: Answer): Promise<void> {
  response.writeHead(200, { 'content-type': 'text/event-stream' })
  response.flushHeaders()
  await shape.held?.()
  const piece = event([{ index: 0, delta: { content: pieceOf(shape) }, finish_reason: null }])
  for (let i = 0; i < shape.events; i++) {
    response.write(piece)
    await (shape.paceMs === undefined ? nextTurn() : passed(shape.paceMs))
  }
  response.write(event([{ index: 0, delta: {}, finish_reason: 'stop' }]))
  response.write(event([], usageOf(shape)))
  response.end('data: [DONE]\n\n')
}

async function whole(response: http.ServerResponse, shape: Answer): Promise<void> {
  await shape.held?.()
  const message = { role: 'assistant', content: pieceOf(shape).repeat(shape.events) }
  const choices = [{ index: 0, message, finish_reason: 'stop' }]
  response.writeHead(200, { 'content-type': 'application/json' })
  response.end(
    JSON.stringify({ ...COMMON, object: 'chat.completion', choices, usage: usageOf(shape) }),
  )
}

const COMMON = { id: 'up', created: 1, model: 'm' }

function event(choices: readonly object[], usage?: object): string {
  const chunk = { ...COMMON, object: 'chat.completion.chunk', choices, usage }
  return `data: ${JSON.stringify(chunk)}\n\n`
}
