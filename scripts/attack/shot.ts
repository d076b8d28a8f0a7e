// One request of an attack, and how it is built.
import { pick, type Random } from '../../test/support/random.ts'
import type { Target } from './target.ts'

/** What must become of a request. */
export type Expectation =
  | 'any'
  /** `403 origin_not_allowed`, before anything of the request is read. */
  | 'origin refused'
  /** `401` */
  | 'token refused'
  /** Any error. */
  | 'refused'

export interface Shot {
  readonly method: string
  readonly path: string
  readonly headers: Readonly<Record<string, string>>
  readonly body: string | null
  readonly expects: Expectation
  /** The most that one upstream call for it could read and write; 0: it cannot spend. */
  readonly tokens: number
  /** When to disconnect; null: read the whole response. */
  readonly leaves: 'when sent' | 'in the answer' | null
  /** Resume the last stream: `Last-Event-ID` is completed when it is sent. */
  readonly resumes: boolean
}

/** Requests that belong together. */
export interface Volley {
  readonly name: string
  readonly order: 'at once' | 'one by one'
  readonly shots: readonly Shot[]
}

/** What the builders of requests need. */
export interface Aim {
  readonly target: Target
  readonly random: Random
  /** A number that is different for each call of a run. */
  readonly serial: () => number
  /** The seed, as part of every text: another seed asks for other answers. */
  readonly seed: number
}

/** A GET from the allowed page, unless `more` has something else. */
export function shot(aim: Aim, path: string, more: Partial<Shot> = {}): Shot {
  const { headers = {}, ...rest } = more
  return {
    method: 'GET',
    path,
    body: null,
    expects: 'any',
    tokens: 0,
    leaves: null,
    resumes: false,
    ...rest,
    headers: { origin: aim.target.origin, ...visitor(aim), ...headers },
  }
}

/** A POST of JSON, or of a text that is sent as it is. */
export function post(
  aim: Aim,
  path: string,
  body: object | string,
  more: Partial<Shot> = {},
): Shot {
  const text = typeof body === 'string' ? body : JSON.stringify(body)
  const headers = { 'content-type': 'application/json', ...more.headers }
  return shot(aim, path, { ...more, method: 'POST', body: text, headers })
}

const VISITORS = 16

/** The headers by which a Worker could be made to see another visitor. */
function visitor({ target, random }: Aim): Record<string, string> {
  const address = `2001:db8:0:${1 + Math.floor(random() * VISITORS)}::1`
  const forged = pick(['x-forwarded-for', 'x-real-ip', 'true-client-ip', 'forwarded'], random)
  return {
    [forged]: forged === 'forwarded' ? `for="[${address}]"` : address,
    // Cloudflare refuses requests that have this header.
    ...(target.isLocal ? { 'cf-connecting-ip': address } : {}),
    ...(target.visitorToken === null ? {} : { 'x-visitor-token': target.visitorToken }),
  }
}

/** Between `least` and `most` requests. */
export function times(
  { random }: Aim,
  least: number,
  most: number,
  build: (i: number) => Shot,
): readonly Shot[] {
  const count = least + Math.floor(random() * (most - least + 1))
  return Array.from({ length: count }, (_, i) => build(i))
}
