// Sends requests to the Worker as its operator. Does not follow redirects, which would send the token
// to another address.

import { isRecord, parseJson } from '../../src/json.ts'
import { readAtMost } from './body.ts'
import { printable } from './printable.ts'

export type Fetch = (request: Request) => Promise<Response>

export interface Answer {
  readonly status: number
  readonly headers: Headers
  readonly text: string
}

export interface LockedPrompt {
  readonly id: string
  readonly variables: Readonly<Record<string, string>>
}

export interface GatewayOptions {
  readonly url: string
  readonly token: string
  /** What the command does, for "Cannot …". */
  readonly verb: string
}

type Sender = 'operator' | 'anonymous'

/** More than the list of an index has. Another server may be at the address. */
const MAX_ANSWER_BYTES = 67_108_864

export class Gateway {
  readonly #options: GatewayOptions
  readonly #fetch: Fetch

  constructor(options: GatewayOptions, fetch: Fetch) {
    this.#options = options
    this.#fetch = fetch
  }

  /** `POST /v1/completions`, or for a conversation `/v1/chat/completions`. Rejects if the connection fails. */
  async complete(body: object, cacheControl: string | null = null): Promise<Answer> {
    const headers: Record<string, string> = { 'content-type': 'application/json' }
    if (cacheControl !== null) headers['cache-control'] = cacheControl
    return await this.send('messages' in body ? '/v1/chat/completions' : '/v1/completions', {
      method: 'POST',
      headers,
      body: JSON.stringify(body),
    })
  }

  /** What a visitor gets for a locked prompt: the last answer that is stored. Nothing is read or spent. */
  async stored({ id, variables }: LockedPrompt): Promise<Answer> {
    const query = new URLSearchParams({ prompt_id: id })
    for (const [name, value] of Object.entries(variables)) query.append(`var.${name}`, value)
    return await this.send(`/v1/completions?${query}`, {})
  }

  /** The locked prompts, as listed by `GET /v1/prompts`. */
  async prompts(): Promise<unknown> {
    const { status, text } = await this.reach('/v1/prompts')
    if (status === 200) return JSON.parse(text)
    throw new Error(`Cannot list the prompts: ${refusalIn(status, text)}`)
  }

  /** Fails early if this is no Worker, or the token is wrong. @throws Error */
  async check(): Promise<void> {
    // Without the token: the address may be another server's.
    const { status, text } = await this.reach('/health', 'anonymous')
    const health = parseJson(text)
    const state = isRecord(health) ? health['status'] : null
    if (state === 'misconfigured') throw this.#refusal(`is misconfigured:\n${faultsIn(health)}`)
    if (state !== 'ok') throw this.#refusal(`answered ${refusalIn(status, text)}`)
    const usage = await this.reach('/admin/usage?hours=1')
    const code = codeIn(usage.text)
    if (code === 'operator_token_invalid') {
      throw new Error(
        `Cannot ${this.#options.verb}: OPERATOR_TOKEN does not match the secret of the Worker. Set it with "npx wrangler secret put OPERATOR_TOKEN", or in .dev.vars for a local Worker, and restart that Worker.`,
      )
    }
    if (usage.status !== 200 && code === null) {
      throw this.#refusal(`answered ${refusalIn(usage.status, usage.text)}`)
    }
  }

  #refusal(reason: string): Error {
    return new Error(`Cannot ${this.#options.verb}: ${this.#options.url} ${reason}`)
  }

  /** @throws Error for the user if the connection fails */
  async reach(path: string, as: Sender = 'operator'): Promise<Answer> {
    try {
      return await this.send(path, {}, as)
    } catch {
      throw new Error(`Cannot reach the Worker at ${this.#options.url}: no connection`)
    }
  }

  /** Sends one request. Rejects if the connection fails. */
  async send(path: string, init: RequestInit, as: Sender = 'operator'): Promise<Answer> {
    const request = new Request(new URL(path, this.#options.url), { ...init, redirect: 'manual' })
    if (as === 'operator') request.headers.set('authorization', `Bearer ${this.#options.token}`)
    const response = await this.#fetch(request)
    const { status, headers } = response
    const { bytes } = await readAtMost(response, MAX_ANSWER_BYTES)
    return { status, headers, text: bytes.toString('utf8') }
  }
}

/** The faults of the settings that `GET /health` lists. */
function faultsIn(health: unknown): string {
  const faults = isRecord(health) && Array.isArray(health['faults']) ? health['faults'] : []
  return faults.map(({ path, message }) => printable(`${path}: ${message}`)).join('\n')
}

/** The error code in a response of the Worker, or null. */
export function codeIn(text: string): string | null {
  const code = errorIn(text)['code']
  return typeof code === 'string' ? code : null
}

/** Describes an error response in one line. */
export function refusalIn(status: number, text: string): string {
  const { code, message } = errorIn(text)
  if (typeof code !== 'string') return `${status}, not from an edge-completions Worker`
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
