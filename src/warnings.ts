// Warnings about a valid configuration, and secrets that are too weak for a Worker that strangers can
// reach. Shows no secret.
import { isTestSecret } from './access/turnstile.ts'
import type { Config } from './config.ts'
import type { Fault } from './faults.ts'
import { isLoopback } from './http/cors.ts'

/** An operator token below this many characters could be guessed. */
const MIN_TOKEN_CHARS = 24

export interface Secrets {
  readonly turnstileSecret: string
  /** "": there is no operator. */
  readonly operatorToken: string
}

/** Faults of secrets that apply everywhere but on a loopback host. */
export function publicFaultsOf({ turnstileSecret, operatorToken }: Secrets): Fault[] {
  const faults: Fault[] = []
  if (isTestSecret(turnstileSecret)) {
    faults.push({
      path: 'TURNSTILE_SECRET',
      message: 'Cannot use a test secret here: it lets everybody in, set the one of your widget',
    })
  }
  if (operatorToken !== '' && operatorToken.length < MIN_TOKEN_CHARS) {
    faults.push({
      path: 'OPERATOR_TOKEN',
      message: `Cannot use the secret "OPERATOR_TOKEN": expected at least ${MIN_TOKEN_CHARS} characters, since a shorter one can be guessed; set 32 random ones with "npx wrangler secret put OPERATOR_TOKEN"`,
    })
  }
  return faults
}

/** Warnings about settings that are valid and may still surprise their owner. */
export function warningsOf({
  freePrompts,
  freePromptsSaid,
  upstreams,
  access,
  origins,
  ...config
}: Config): string[] {
  const paid = [...upstreams.values()].some(({ wire }) => wire !== 'demo')
  const warnings: string[] = []
  if (!freePrompts && !freePromptsSaid) {
    warnings.push(
      'the locked prompts switch free prompts off: set free_prompts = true to allow both, or free_prompts = false to confirm',
    )
  }
  if (paid && freePrompts && access.turnstile_sitekey === '') {
    warnings.push('no Turnstile: anyone may spend up to the budget')
  }
  if (paid && origins.length === 0) {
    warnings.push('origins is empty: only pages of this Worker itself may call it')
  }
  warnings.push(...costlyPages(config))
  for (const { name, baseUrl, key } of upstreams.values()) {
    if (key !== null && baseUrl.startsWith('http://') && !isLoopback(new URL(baseUrl).hostname)) {
      warnings.push(`upstream "${name}" gets its key over plain http`)
    }
  }
  return warnings
}

/** Prompts whose pages may be too long for their budget: a call reserves a token for each byte. */
function costlyPages({
  prompts,
  defaults,
  budget,
}: Pick<Config, 'prompts' | 'defaults' | 'budget'>): string[] {
  return [...prompts].flatMap(([id, { variables, max_tokens, spend }]) => {
    const pages = Object.values(variables).map((page) => ('from' in page ? page.max_chars : 0))
    const chars = pages.reduce((sum, one) => sum + one, 0)
    const tokens = chars + (max_tokens ?? defaults.max_tokens)
    const name = spend === 'operator' ? 'tokens_per_day' : 'tokens_per_visitor_per_day'
    if (chars === 0 || tokens <= budget[name]) return []
    return `prompt "${id}" may reserve more than ${tokens} tokens for a long page, and budget.${name} is ${budget[name]}`
  })
}
