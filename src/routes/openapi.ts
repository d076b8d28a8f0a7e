// `GET /openapi.json`: the document that scripts/openapi/ builds beforehand, with this endpoint's
// settings. Generating it here would add a tenth to the bundle, which every isolate compiles.

import type { Reply } from '../http/reply.ts'
import type { ChatLimits } from '../request/chat.ts'

export interface OpenApiOptions {
  readonly limits: ChatLimits
  /** Whether visitors may send prompts of their own. */
  readonly freePrompts: boolean
  /** Public: it is part of every page that shows the challenge. "": Turnstile is off. */
  readonly turnstileSitekey: string
}

export const TEMPLATE = 'openapi-template.json'

/** Takes the place of the limits in the built document: numbers that occur nowhere else in it. */
export const placeholders: ChatLimits = {
  prompt_chars: 8_000_000_000_000_001,
  max_tokens: 8_000_000_000_000_002,
  n: 8_000_000_000_000_003,
  prompts: 8_000_000_000_000_004,
  messages: 8_000_000_000_000_005,
  chat_chars: 8_000_000_000_000_006,
}

/** The route. It reads the static file and completes it on the first request. */
export function openApiRoute(
  options: OpenApiOptions,
  readFile: (name: string) => Promise<string>,
): () => Promise<Reply> {
  let body: string | null = null
  const headers = { 'content-type': 'application/json', 'cache-control': 'no-cache' }
  return async () => {
    body ??= complete(await readFile(TEMPLATE), options)
    return { status: 200, headers, body }
  }
}

function complete(template: string, options: OpenApiOptions): string {
  const { limits, freePrompts, turnstileSitekey } = options
  const names = Object.keys(placeholders) as (keyof ChatLimits)[]
  const values = new Map<unknown, number>(names.map((name) => [placeholders[name], limits[name]]))
  const document = JSON.parse(template, (_, value: unknown) => values.get(value) ?? value)
  document.info['x-free-prompts'] = freePrompts
  if (turnstileSitekey !== '') document.info['x-turnstile-sitekey'] = turnstileSitekey
  return JSON.stringify(document)
}
