// The Worker as its operator reaches it. Follows no redirect: the token is for this address only.

export type Fetch = (request: Request) => Promise<Response>

export interface Answer {
  readonly status: number
  readonly headers: Headers
  readonly text: string
}

export interface GatewayOptions {
  readonly url: string
  readonly token: string
}

export class Gateway {
  readonly #options: GatewayOptions
  readonly #fetch: Fetch

  constructor(options: GatewayOptions, fetch: Fetch) {
    this.#options = options
    this.#fetch = fetch
  }

  /** `POST /v1/completions`. Rejects where there is no connection. */
  async complete(body: unknown, cacheControl: string | null = null): Promise<Answer> {
    const headers: Record<string, string> = { 'content-type': 'application/json' }
    if (cacheControl !== null) headers['cache-control'] = cacheControl
    return await this.#ask('/v1/completions', {
      method: 'POST',
      headers,
      body: JSON.stringify(body),
    })
  }

  /** The locked prompts, as `GET /v1/prompts` lists them. @throws Error where it does not */
  async prompts(): Promise<unknown> {
    const { status, text } = await this.#reach('/v1/prompts')
    if (status === 200) return JSON.parse(text)
    throw new Error(`Cannot list the prompts: ${refusalIn(status, text)}`)
  }

  /** @throws Error when the token is not the Worker's, before a whole list fails for it */
  async checkToken(): Promise<void> {
    const { status, text } = await this.#reach('/admin/usage?hours=1')
    if (codeIn(text) === 'operator_token_invalid') {
      throw new Error(
        'Cannot warm: OPERATOR_TOKEN is not the one that the Worker has; see "npx wrangler secret put OPERATOR_TOKEN", or .dev.vars for a local one',
      )
    }
    if (status !== 200 && codeIn(text) === null) {
      throw new Error(`Cannot warm: ${this.#options.url} is ${refusalIn(status, text)}`)
    }
  }

  async #reach(path: string): Promise<Answer> {
    try {
      return await this.#ask(path, {})
    } catch {
      throw new Error(`Cannot reach the Worker at ${this.#options.url}: no connection`)
    }
  }

  async #ask(path: string, init: RequestInit): Promise<Answer> {
    const request = new Request(new URL(path, this.#options.url), { ...init, redirect: 'manual' })
    request.headers.set('authorization', `Bearer ${this.#options.token}`)
    const response = await this.#fetch(request)
    const { status, headers } = response
    return { status, headers, text: await response.text() }
  }
}

/** The code of an error of the Worker's own, or null. */
export function codeIn(text: string): string | null {
  const code = errorIn(text)['code']
  return typeof code === 'string' ? code : null
}

/** What a refusal says, in one line for the owner's terminal. */
export function refusalIn(status: number, text: string): string {
  const { code, message } = errorIn(text)
  if (typeof code !== 'string') return `${status} not an answer of this gateway`
  return typeof message === 'string'
    ? `${status} ${code}: ${printable(message)}`
    : `${status} ${code}`
}

function errorIn(text: string): Record<string, unknown> {
  try {
    return (JSON.parse(text) as { error?: Record<string, unknown> } | null)?.error ?? {}
  } catch {
    return {}
  }
}

const MAX_CHARS = 300

/** One line without control characters: a terminal obeys them. */
export function printable(text: string): string {
  const bare = text.replaceAll(/\p{Cc}+/gu, ' ')
  return bare.length > MAX_CHARS ? `${bare.slice(0, MAX_CHARS - 1)}…` : bare
}
