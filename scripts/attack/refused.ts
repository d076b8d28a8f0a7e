// Attacks that every Worker must refuse, by the origin, the token, the body or the path.
import { pick } from '../../test/support/random.ts'
import { newText } from './bodies.ts'
import { type Aim, post, shot, times, type Volley } from './shot.ts'

type Requests = Omit<Volley, 'name'>
type Path = readonly [method: string, path: string]

/** Larger than a body may be by default, and small enough to send often. */
const LARGE_BODY_CHARS = 200_000
const NEST = 20_000

/** Origins that are like the allowed one, but another site's. */
function foreignOrigins({ target }: Aim): readonly [string, ...string[]] {
  const { protocol, hostname } = new URL(target.origin)
  return [
    'https://attacker.example',
    'null',
    `${protocol}//${hostname.replace(/^\[|\]$/g, '')}.attacker.example`,
    `https://attacker.example#${hostname}`,
    `${target.origin}, https://attacker.example`,
    `${target.origin}/`,
    'file://',
  ]
}

/** With bodies that would be other errors if they were read. */
export function refusedOrigins(aim: Aim): Requests {
  const { random } = aim
  const bodies = [
    JSON.stringify({ prompt: newText(aim) }),
    '{"prompt":',
    'x'.repeat(LARGE_BODY_CHARS),
  ] as const
  const posts = ['/v1/completions', '/v1/chat/completions', '/v1/ai-sdk', '/v1/visitors'] as const
  const gets = ['/v1/completions?prompt=x', '/v1/models', '/v1/prompts', '/v1/search?q=x'] as const
  return {
    order: 'at once',
    shots: times(aim, 3, 8, () => {
      const headers = { origin: pick(foreignOrigins(aim), random) }
      const more = { headers, expects: 'origin refused' } as const
      if (random() < 0.3) return shot(aim, pick(gets, random), more)
      return post(aim, pick(posts, random), pick(bodies, random), more)
    }),
  }
}

export function beyondLimits(aim: Aim): Requests {
  const { limits } = aim.target
  const prompt = newText(aim)
  const turn = { role: 'user', content: 'x' }
  const bodies: readonly [string, ...string[]] = [
    JSON.stringify({ prompt, max_tokens: limits.max_tokens + 1 }),
    JSON.stringify({ prompt, max_tokens: 1e308 }),
    JSON.stringify({ prompt, n: limits.n + 1 }),
    JSON.stringify({ prompt, best_of: limits.n + 1 }),
    JSON.stringify({ prompt: 'x'.repeat(limits.prompt_chars + 1) }),
    JSON.stringify({ prompt, max_completion_tokens: -1 }),
    `{"prompt":"x","__proto__":{"max_tokens":9},"system":"obey"}`,
    JSON.stringify({ prompt, model: 'gpt-of-another' }),
    JSON.stringify({ messages: Array.from({ length: limits.messages + 1 }, () => turn) }),
    `{"prompt":${'['.repeat(NEST)}${']'.repeat(NEST)}}`,
    'x'.repeat(LARGE_BODY_CHARS),
    '{"prompt":"\\ud800"}',
    'null',
    '',
  ]
  const types = ['application/json', 'text/plain', 'image/png'] as const
  return {
    order: 'at once',
    shots: times(aim, 3, 8, () => {
      const path = pick(['/v1/completions', '/v1/completions', '/v1/ai-sdk'], aim.random)
      // The hooks leave out the oldest messages instead of refusing too many.
      const allowed = path === '/v1/ai-sdk' ? bodies.slice(0, 4) : bodies
      const body = allowed[Math.floor(aim.random() * allowed.length)] ?? ''
      const headers = { 'content-type': pick(types, aim.random) }
      return post(aim, path, body, { headers, expects: 'refused' })
    }),
  }
}

/** Requests that never spend, some of paths and methods that do not exist. */
export function cacheOnly(aim: Aim): Requests {
  const query = new URLSearchParams({ prompt: newText(aim), max_tokens: '5' })
  const requests: readonly [Path, ...Path[]] = [
    ['GET', `/v1/completions?${query}`],
    ['HEAD', `/v1/completions?${query}`],
    ['GET', '/v1/completions?prompt=%ff%fe&max_tokens=x'],
    ['GET', `/v1/completions?prompt_id=${encodeURIComponent('../secret')}&var.x=1`],
    ['GET', '/v1/models/%2e%2e%2fsecret'],
    ['PATCH', '/v1/completions'],
    ['DELETE', '/v1/chat/completions'],
    ['OPTIONS', '/v1/completions'],
    ['GET', '/.dev.vars'],
    ['GET', '/wrangler.toml'],
  ]
  return {
    order: 'at once',
    shots: times(aim, 3, 8, () => {
      const [method, path] = pick(requests, aim.random)
      return shot(aim, path, { method, expects: 'refused' })
    }),
  }
}

/** Their bodies would be refused, too, so that nothing changes if a token is not checked. */
export function operatorPaths(aim: Aim): Requests {
  const paths: readonly [Path, ...Path[]] = [
    ['GET', '/admin/usage?hours=24'],
    ['GET', '/admin/usage?token=operator&access_token=operator'],
    ['POST', '/admin/purge'],
    ['POST', '/admin/pause'],
    ['PUT', '/admin/site/page'],
    ['DELETE', '/admin/site/page'],
    ['GET', '/admin/site'],
  ]
  const tokens = [
    null,
    'Bearer ',
    'Bearer operator',
    'Basic b3BlcmF0b3I6',
    'Bearer undefined',
  ] as const
  return {
    order: 'at once',
    shots: times(aim, 3, 7, () => {
      const [method, path] = pick(paths, aim.random)
      const authorization = pick(tokens, aim.random)
      const headers = authorization === null ? {} : { authorization }
      const body = method === 'POST' || method === 'PUT' ? '{}' : null
      return shot(aim, path, { method, body, headers, expects: 'token refused' })
    }),
  }
}
