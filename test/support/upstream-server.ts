// A scripted upstream over real sockets: correct answers, wrong ones, and connections that fail in
// any way, byte by byte. It records each call. Each lane is a path of its own, so that tests never
// see each other's calls.
import { createServer, type Server, type Socket } from 'node:net'
import { unchunked } from './unchunked.ts'

/** A received request, and what happened to its connection. */
export interface UpstreamCall {
  readonly method: string
  readonly path: string
  readonly headers: Readonly<Record<string, string>>
  readonly text: string
  /** The parsed JSON. */
  readonly body: Readonly<Record<string, unknown>>
  /** Resolves when either side has closed the connection. */
  readonly closed: Promise<void>
  /** Whether the gateway closed the connection before the script did. */
  left: boolean
}

/** The connection, for a script to write to. Nothing is added to what it writes. */
export interface Line {
  write(data: string | Uint8Array): void
  /** Writes the status line and headers, by default with `Connection: close`. */
  head(status: number | string, headers?: Readonly<Record<string, string>>): void
  /** Writes one piece of a chunked body. */
  chunk(text: string): void
  /** Ends a chunked body, and the connection. */
  lastChunk(): void
  /** Resolves when everything written has been sent. A reset would discard it. */
  flushed(): Promise<void>
  /** Closes the connection in order (FIN). */
  end(): void
  /** Aborts the connection (RST). */
  reset(): void
  /** Whether it can still be written to. */
  isOpen(): boolean
}

/** Handles one call. */
export type Script = (call: UpstreamCall, line: Line) => void | Promise<void>

/** One path of the upstream: its scripts and its calls. */
export class Lane {
  readonly calls: UpstreamCall[] = []
  #scripts: readonly Script[] = []
  #waiting: (() => void)[] = []

  /** Sets one script per call; the last one handles all further calls. */
  answers(...scripts: readonly Script[]): this {
    this.#scripts = scripts
    return this
  }

  /** Waits for the n-th call, counted from 1. */
  async call(n = 1): Promise<UpstreamCall> {
    for (;;) {
      const call = this.calls[n - 1]
      if (call !== undefined) return call
      await new Promise<void>((resolve) => this.#waiting.push(resolve))
    }
  }

  take(call: UpstreamCall): Script {
    this.calls.push(call)
    for (const look of this.#waiting.splice(0)) look()
    return this.#scripts[Math.min(this.calls.length, this.#scripts.length) - 1] ?? unscripted
  }
}

const unscripted: Script = (_, line) => {
  line.head(418)
  line.end()
}

export class UpstreamServer {
  readonly #server: Server
  readonly #sockets = new Set<Socket>()
  readonly #lanes = new Map<string, Lane>()

  private constructor(server: Server) {
    this.#server = server
    server.on('connection', (socket) => this.#serve(socket))
  }

  static async start(): Promise<UpstreamServer> {
    const server = createServer({ allowHalfOpen: true })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    return new UpstreamServer(server)
  }

  get port(): number {
    const address = this.#server.address()
    if (address === null || typeof address === 'string') throw new Error('not listening')
    return address.port
  }

  /** The base URL of a lane. */
  url(name: string): string {
    return `http://127.0.0.1:${this.port}/${name}`
  }

  lane(name: string): Lane {
    const lane = this.#lanes.get(name) ?? new Lane()
    this.#lanes.set(name, lane)
    return lane
  }

  async stop(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy()
    await new Promise<void>((resolve) => this.#server.close(() => resolve()))
  }

  #serve(socket: Socket): void {
    this.#sockets.add(socket)
    let received = Buffer.alloc(0)
    let call: UpstreamCall | null = null
    let ours = false
    const closed = new Promise<void>((resolve) => {
      const over = () => {
        if (call !== null && !ours) call.left = true
        ours = true
        this.#sockets.delete(socket)
        socket.end()
        resolve()
      }
      socket.on('end', over)
      socket.on('close', over)
      socket.on('error', over)
    })
    const line = lineOf(socket, () => {
      ours = true
    })
    socket.on('data', (data) => {
      received = Buffer.concat([received, data])
      if (call !== null) return
      // A TLS handshake. Plain HTTP servers answer it with 400.
      if (received[0] === 0x16) {
        line.head(400)
        line.end()
        return
      }
      const request = parseRequest(received)
      if (request === null) return
      call = { ...request, closed, left: false }
      const script = this.lane(request.path.split('/')[1] ?? '').take(call)
      Promise.resolve(script(call, line)).catch(() => line.reset())
    })
  }
}

function lineOf(socket: Socket, ending: () => void): Line {
  const write = (data: string | Uint8Array) => {
    if (socket.writable) socket.write(data)
  }
  const end = () => {
    ending()
    socket.end()
  }
  return {
    write,
    head(status, headers = {}) {
      const all = { connection: 'close', ...headers }
      const lines = Object.entries(all).map(([name, value]) => `${name}: ${value}\r\n`)
      write(
        `HTTP/1.1 ${status}${typeof status === 'number' ? ' Word' : ''}\r\n${lines.join('')}\r\n`,
      )
    },
    chunk: (text) => write(`${Buffer.byteLength(text).toString(16)}\r\n${text}\r\n`),
    lastChunk() {
      write('0\r\n\r\n')
      end()
    },
    flushed: () => new Promise((resolve) => socket.write('', () => resolve())),
    end,
    reset() {
      ending()
      socket.resetAndDestroy()
    },
    isOpen: () => socket.writable,
  }
}

type Parsed = Omit<UpstreamCall, 'closed' | 'left'>

/**
 * A request with a Content-Length, as the gateway always sends, or in chunks, as others do; null while it
 * is incomplete.
 */
function parseRequest(received: Buffer): Parsed | null {
  const split = received.indexOf('\r\n\r\n')
  if (split === -1) return null
  const [first = '', ...lines] = received.subarray(0, split).toString('latin1').split('\r\n')
  const [method = '', path = ''] = first.split(' ')
  const headers = Object.fromEntries(
    lines.map((line) => {
      const colon = line.indexOf(':')
      return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()]
    }),
  )
  const body = received.subarray(split + 4)
  const isChunked = headers['transfer-encoding'] === 'chunked'
  if (isChunked && !/(^|\r\n)0\r\n\r\n$/.test(body.toString('latin1'))) return null
  if (body.length < Number(headers['content-length'] ?? 0)) return null
  const text = isChunked ? unchunked(body) : body.toString('utf8')
  return { method, path, headers, text, body: text === '' ? {} : JSON.parse(text) }
}

/** A promise for a script to wait for, and the function that resolves it. */
export function latch(): { readonly open: () => void; readonly opened: Promise<void> } {
  const { promise, resolve } = Promise.withResolvers<void>()
  return { open: resolve, opened: promise }
}

/** A JSON answer with a Content-Length. */
export function json(
  body: unknown,
  { status = 200, headers = {} }: { status?: number; headers?: Record<string, string> } = {},
): Script {
  return (_, line) => {
    const text = JSON.stringify(body)
    line.head(status, {
      'content-type': 'application/json',
      'content-length': String(Buffer.byteLength(text)),
      ...headers,
    })
    line.write(text)
    line.end()
  }
}

/** An error response. `body` may be computed from the call: some upstreams echo the request. */
export function refusal(
  status: number | string,
  body: unknown | ((call: UpstreamCall) => unknown) = {
    error: { message: 'no', type: 'some_error', code: 'some_code' },
  },
  headers: Readonly<Record<string, string>> = {},
): Script {
  return (call, line) => {
    line.head(status, { 'content-type': 'application/json', ...headers })
    line.write(JSON.stringify(typeof body === 'function' ? body(call) : body))
    line.end()
  }
}

export interface StreamScript {
  readonly model?: string
  readonly id?: string
  /** Null: leave it out. */
  readonly finish?: string | null
  readonly usage?: Readonly<Record<string, unknown>> | null
  readonly done?: boolean
  readonly headers?: Readonly<Record<string, string>>
  /** Awaited before each piece but the first. */
  readonly pace?: (piece: number) => Promise<void>
}

export const USAGE = { prompt_tokens: 5, completion_tokens: 7, total_tokens: 12 }

/** One server-sent event. */
export function event(data: unknown): string {
  return `data: ${typeof data === 'string' ? data : JSON.stringify(data)}\n\n`
}

/** A stream of the `chat` wire: the role, pieces of content, a finish reason, usage, `[DONE]`. */
export function chatStream(pieces: readonly string[], options: StreamScript = {}): Script {
  const object = 'chat.completion.chunk'
  return stream(
    pieces,
    options,
    object,
    (content) => ({ delta: { content } }),
    { delta: {} },
    {
      delta: { role: 'assistant', content: '' },
    },
  )
}

/** A stream of the `completions` wire. */
export function completionsStream(pieces: readonly string[], options: StreamScript = {}): Script {
  return stream(pieces, options, 'text_completion', (text) => ({ text }), { text: '' })
}

/** Sends words until the gateway ends the call. */
export const endless =
  (api: 'completions' | 'chat'): Script =>
  async (call, line) => {
    const choice = api === 'chat' ? { delta: { content: 'word' } } : { text: 'word' }
    line.head(200, { 'content-type': 'text/event-stream' })
    // Keep sending: workerd notices that a reader has gone only when it writes.
    while (!call.left) {
      line.write(event({ choices: [{ index: 0, ...choice }] }))
      await Promise.race([new Promise((resolve) => setTimeout(resolve, 20)), call.closed])
    }
  }

function stream(
  pieces: readonly string[],
  options: StreamScript,
  object: string,
  choiceOf: (piece: string) => Readonly<Record<string, unknown>>,
  empty: Readonly<Record<string, unknown>>,
  opening?: Readonly<Record<string, unknown>>,
): Script {
  const { model = 'upstream-model-1', id = 'upstream-id-1', finish = 'stop', pace } = options
  const { usage = USAGE, done = true, headers = {} } = options
  const shared = { id, object, created: 1, model }
  const chunk = (choice: object, reason: string | null) =>
    event({ ...shared, choices: [{ index: 0, ...choice, logprobs: null, finish_reason: reason }] })
  return async (_, line) => {
    line.head(200, {
      'content-type': 'text/event-stream',
      'transfer-encoding': 'chunked',
      ...headers,
    })
    if (opening !== undefined) line.chunk(chunk(opening, null))
    for (const [i, piece] of pieces.entries()) {
      if (i > 0 && pace !== undefined) await pace(i)
      line.chunk(chunk(choiceOf(piece), null))
    }
    if (finish !== null) line.chunk(chunk(empty, finish))
    if (usage !== null) line.chunk(event({ ...shared, choices: [], usage }))
    if (done) line.chunk(event('[DONE]'))
    line.lastChunk()
  }
}
