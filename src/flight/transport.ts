// How a Worker asks a flight's Durable Object: by `fetch`, whose body can be the bytes of the answer
// as the visitor gets them. Both sides are here.
//
//   POST /join        {work, reader}       the answer as JSON, or a stream with its head in a header
//   POST /join?watch  the same, as a line  the same; the body ends when the reader has left
//   POST /refresh     {work}               204
//   GET  /end?id=     the id of a request  the problem that its stream ended with, or null
//
// A stream that ends cleanly is whole. After a problem it is aborted, and /end tells which.
import { entryJson } from '../cache/entry.ts'
import type { Reader } from '../completion/encode.ts'
import type { Problem } from '../errors.ts'
import { escaped } from '../json.ts'
import { RecentMap } from '../lru.ts'
import type { Flights, SharedWork } from './flights.ts'
import type { MissAnswer, MissSummary, Role } from './miss.ts'

/**
 * The name of the object of a key, by the first digit of its hash. There are sixteen: so few that
 * they are usually running when a new prompt comes, even on a site with few visitors. An object that
 * has to be started first costs time, and a second look in KV (flights.ts, `KV_SPREAD_MS`).
 *
 * @internal exported for its tests
 */
export function objectOf(key: string): string {
  return `f${key.charAt(key.indexOf(':') + 1)}`
}

/** Sends a request to the object with this name. */
export type FetchObject = (name: string, request: Request) => Promise<Response>

interface JoinRequest {
  readonly work: SharedWork
  readonly reader: Reader
}

/** The head of a streamed answer. */
interface StreamHead {
  readonly role: Role
  readonly summary: MissSummary
}

/** What an object answers. The end of a stream is requested separately. */
export type RemoteAnswer =
  | Exclude<MissAnswer, { kind: 'stream' }>
  | ({ readonly kind: 'stream'; readonly body: ReadableStream<Uint8Array> } & StreamHead)

const HEAD = 'flight-head'
const BASE = 'https://flights.invalid'

/**
 * @param left when it is aborted, the object learns that the reader has left; null: it need not know
 * @throws what `fetch` throws if the object cannot be reached
 */
export async function joinRemote(
  fetchObject: FetchObject,
  joining: JoinRequest,
  left: AbortSignal | null,
): Promise<RemoteAnswer> {
  const body = JSON.stringify(joining)
  const watched = left === null ? body : presence(body, left)
  const path = left === null ? '/join' : '/join?watch'
  const response = await fetchObject(objectOf(joining.work.key), post(path, watched))
  const head = response.headers.get(HEAD)
  if (head !== null && response.body !== null) {
    return { kind: 'stream', body: response.body, ...(JSON.parse(head) as StreamHead) }
  }
  return answerFrom(await response.json())
}

export async function refreshRemote(fetchObject: FetchObject, work: SharedWork): Promise<void> {
  await fetchObject(objectOf(work.key), post('/refresh', JSON.stringify({ work })))
}

/** The problem that a stream ended with; null if the connection to it was lost. */
export async function endRemote(
  fetchObject: FetchObject,
  { key, requestId }: SharedWork,
): Promise<Problem | null> {
  try {
    const url = `${BASE}/end?id=${requestId}`
    const response = await fetchObject(objectOf(key), new Request(url))
    return (await response.json()) as Problem | null
  } catch {
    return null
  }
}

function post(path: string, body: string | ReadableStream<Uint8Array>): Request {
  // Node requires `duplex` for a stream.
  const init = { method: 'POST', body, duplex: 'half' }
  return new Request(BASE + path, init)
}

/** The text as a line, followed by nothing until the reader leaves. It ends with the request, too. */
function presence(text: string, left: AbortSignal): ReadableStream<Uint8Array> {
  let leave = () => {}
  return new ReadableStream<Uint8Array>({
    start(controller) {
      controller.enqueue(new TextEncoder().encode(`${text}\n`))
      leave = () => controller.close()
      if (left.aborted) leave()
      else left.addEventListener('abort', leave, { once: true })
    },
    cancel() {
      left.removeEventListener('abort', leave)
    },
  })
}

/** An answer as JSON. Its entry, which contains the completion, is serialised once for all readers. */
function answerJson(answer: Exclude<MissAnswer, { kind: 'stream' }>): string {
  if (answer.kind !== 'whole' || answer.entry === null) return JSON.stringify(answer)
  const { entry, completion: _, ...rest } = answer
  return `{"entry":${entryJson(entry)},${JSON.stringify(rest).slice(1)}`
}

function answerFrom(json: unknown): Exclude<MissAnswer, { kind: 'stream' }> {
  const answer = json as Exclude<MissAnswer, { kind: 'stream' }>
  if (answer.kind !== 'whole' || answer.entry === null) return answer
  return { ...answer, completion: answer.entry.completion }
}

/** The ends of streams that nobody has asked for yet. */
const ENDS_BYTES = 262_144
const END_BYTES = 256

/** The side of the object. */
export class FlightServer {
  readonly #flights: Flights
  readonly #ends = new RecentMap<Problem>({ maxBytes: ENDS_BYTES, bytesOf: () => END_BYTES })

  constructor(flights: Flights) {
    this.#flights = flights
  }

  async fetch(request: Request): Promise<Response> {
    const { pathname, search, searchParams } = new URL(request.url)
    switch (pathname) {
      case '/join':
        return search === '?watch'
          ? await this.#join(...(await watched(request)))
          : await this.#join(await request.json(), new AbortController().signal)
      case '/refresh': {
        const { work } = await request.json<{ readonly work: SharedWork }>()
        this.#flights.refresh(work)
        return new Response(null, { status: 204 })
      }
      default: {
        const id = searchParams.get('id') ?? ''
        const end = this.#ends.get(id)
        this.#ends.delete(id)
        return Response.json(end)
      }
    }
  }

  async #join({ work, reader }: JoinRequest, left: AbortSignal): Promise<Response> {
    const answer = await this.#flights.join(work, reader, left)
    if (answer.kind !== 'stream') return new Response(answerJson(answer))
    const { body, role, summary, ended } = answer
    ended.then(({ end }) => {
      if (typeof end !== 'string') this.#ends.set(work.requestId, end)
    })
    return new Response(body, { headers: { [HEAD]: ascii(JSON.stringify({ role, summary })) } })
  }
}

/** JSON in which all characters can stand in a header. */
const ascii = (json: string) => json.replace(/[^\x20-\x7e]/g, escaped)

/** What the first line says, and a signal that is aborted when the body ends. */
async function watched(request: Request): Promise<[JoinRequest, AbortSignal]> {
  const left = new AbortController()
  const lines = (request.body ?? new Blob([]).stream())
    .pipeThrough(new TextDecoderStream())
    .getReader()
  let text = ''
  while (!text.includes('\n')) {
    const { done, value } = await lines.read()
    if (done) throw new TypeError('the request ended in its middle')
    text += value
  }
  // A connection that is lost has ended, too.
  const untilEnd = async () => {
    while (!(await lines.read()).done);
  }
  untilEnd()
    .finally(() => left.abort())
    .catch(() => {})
  return [JSON.parse(text) as JoinRequest, left.signal]
}
