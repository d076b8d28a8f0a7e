// Warnings about valid settings, and faults of secrets that are too weak for a public Worker.
// Messages never contain a secret.
import { isTestSecret } from '../access/turnstile.ts'
import { isLoopback } from '../http/cors.ts'
import type { Fault } from '../validation.ts'
import type { Config } from './config.ts'

/** Shorter operator tokens could be guessed. */
const MIN_TOKEN_CHARS = 24

export interface Secrets {
  readonly turnstileSecret: string
  /** "": operator endpoints are disabled. */
  readonly operatorToken: string
}

/** Faults of secrets on a public host; on a loopback host they are warnings. */
export function publicFaultsOf({ turnstileSecret, operatorToken }: Secrets): Fault[] {
  const faults: Fault[] = []
  if (isTestSecret(turnstileSecret)) {
    faults.push({
      path: 'TURNSTILE_SECRET',
      message:
        'Cannot use a test secret on a public host, since it accepts every challenge: set the secret of your Turnstile widget',
    })
  }
  const expected = operatorToken === '' ? null : expectedOf(operatorToken)
  if (expected !== null) {
    faults.push({
      path: 'OPERATOR_TOKEN',
      message: `Cannot use the secret "OPERATOR_TOKEN": expected ${expected}; set 32 random characters with "npx wrangler secret put OPERATOR_TOKEN"`,
    })
  }
  return faults
}

/** What is expected of an operator token in place of this one; null: it can be used. */
function expectedOf(token: string): string | null {
  if (!/^[\x21-\x7e]+$/.test(token)) {
    return 'printable ASCII without spaces, since no header can hold another token'
  }
  if (token.length >= MIN_TOKEN_CHARS) return null
  return `at least ${MIN_TOKEN_CHARS} characters, since a shorter token can be guessed`
}

/** Warnings about valid settings that may still surprise the owner. */
export function warningsOf(config: Config): string[] {
  const { freePrompts, freePromptsSet, upstreams, access, origins } = config
  const paid = [...upstreams.values()].some(({ wire }) => wire !== 'demo')
  const warnings: string[] = []
  if (!freePrompts && !freePromptsSet) {
    warnings.push(
      'locked prompts disable free prompts: set free_prompts = true to allow both, or free_prompts = false to confirm',
    )
  }
  if (paid && freePrompts && access.turnstile_sitekey === '') {
    warnings.push('Turnstile is off: anyone can spend up to the budget')
  }
  if (paid && origins.length === 0) {
    warnings.push('origins is empty: only pages served by this Worker can call it')
  }
  warnings.push(...costlyPages(config), ...neverStored(config))
  for (const { name, baseUrl, key } of upstreams.values()) {
    if (key !== null && baseUrl.startsWith('http://') && !isLoopback(new URL(baseUrl).hostname)) {
      warnings.push(`upstream "${name}" receives its key over unencrypted http`)
    }
  }
  return warnings
}

/** Prompts whose pages may exceed their budget, because a call reserves one token per byte. */
function costlyPages({ prompts, defaults, budget }: Config): string[] {
  return [...prompts].flatMap(([id, { variables, max_tokens, spend }]) => {
    const pages = Object.values(variables).map((page) => ('from' in page ? page.max_chars : 0))
    const chars = pages.reduce((sum, one) => sum + one, 0)
    const tokens = chars + (max_tokens ?? defaults.max_tokens)
    const name = spend === 'operator' ? 'tokens_per_day' : 'tokens_per_visitor_per_day'
    if (chars === 0 || tokens <= budget[name]) return []
    return `prompt "${id}" may reserve more than ${tokens} tokens for a long page, but budget.${name} is ${budget[name]}: raise it, or lower max_chars`
  })
}

/** Prompts that only the operator may spend on, but whose answers are not stored for visitors. */
function neverStored({ prompts, cache }: Config): string[] {
  return [...prompts]
    .filter(([, { spend, ttl_seconds }]) => {
      return spend === 'operator' && (ttl_seconds ?? cache.ttl_seconds) === 0
    })
    .map(([id]) => {
      return `prompt "${id}" is never stored, since its ttl_seconds is 0, so with spend = "operator" visitors get no answer`
    })
}
