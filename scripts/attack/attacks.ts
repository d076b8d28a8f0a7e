// The attacks: what anyone on the Internet can send without a secret. Each builds one volley.
import { pick } from '../../test/support/random.ts'
import { chat, completion, filled, newText, spending, stretched, WITH_USAGE } from './bodies.ts'
import { beyondLimits, cacheOnly, operatorPaths, refusedOrigins } from './refused.ts'
import { type Aim, post, type Shot, shot, times, type Volley } from './shot.ts'

type Requests = Omit<Volley, 'name'>

/** By the name that the summary lists. */
export const attacks: Readonly<Record<string, (aim: Aim) => Requests>> = {
  'refused origins': refusedOrigins,
  'a forged page': forgedPage,
  'no page': (aim) => ({ order: 'at once', shots: times(aim, 2, 4, () => pageless(aim)) }),
  'different prompts at once': (aim) => ({
    order: 'at once',
    shots: times(aim, 4, 12, () => spending(aim)),
  }),
  'one prompt at once': onePrompt,
  disconnects: (aim) => ({
    order: 'at once',
    shots: times(aim, 2, 6, () =>
      spending(
        aim,
        { max_tokens: aim.target.limits.max_tokens },
        { leaves: pick(['when sent', 'in the answer'], aim.random) },
      ),
    ),
  }),
  'resumed streams': resumedStreams,
  'the largest requests': largest,
  'beyond the limits': beyondLimits,
  'cache-only requests': cacheOnly,
  retries: (aim) => {
    const again = spending(aim)
    const retry = (i: number) => ({
      ...again,
      headers: {
        ...again.headers,
        'x-stainless-retry-count': String(i),
        'cache-control': 'no-cache',
      },
    })
    return { order: 'one by one', shots: [again, retry(1), retry(2)] }
  },
  'locked prompts': lockedPrompts,
  searches: (aim) => ({
    order: 'at once',
    shots: times(aim, 6, 16, () => search(aim)),
  }),
  'operator paths': operatorPaths,
  'visitor tokens': visitorTokens,
}

/** A script that sends everything a browser on the allowed page would send. */
function forgedPage(aim: Aim): Requests {
  const { target } = aim
  const headers = {
    referer: `${target.origin}/`,
    'sec-fetch-site': 'same-origin',
    'x-forwarded-host': 'attacker.example',
    'cache-control': 'no-cache',
    ...(target.turnstile ? {} : { authorization: 'Bearer not-the-token-of-an-operator' }),
  }
  return { order: 'at once', shots: times(aim, 2, 5, () => spending(aim, {}, { headers })) }
}

/** As scripts send it: without `Origin`. */
function pageless(aim: Aim): Shot {
  const { headers, ...rest } = spending(aim)
  const { origin: _, ...others } = headers
  return { ...rest, headers: others }
}

function onePrompt(aim: Aim): Requests {
  const text = newText(aim)
  const stream = { stream: true, ...WITH_USAGE }
  return {
    order: 'at once',
    shots: times(aim, 4, 10, (i) => completion(aim, text, i % 2 === 0 ? {} : stream)),
  }
}

function resumedStreams(aim: Aim): Requests {
  const first = completion(aim, newText(aim), { stream: true, ...WITH_USAGE })
  const forged = pick(['cmpl-never:3', `cmpl-${'a'.repeat(24)}:999999999`, '-1', ':'], aim.random)
  return {
    order: 'one by one',
    shots: [
      { ...first, leaves: 'in the answer' },
      { ...first, resumes: true },
      { ...first, headers: { ...first.headers, 'last-event-id': forged } },
    ],
  }
}

function largest(aim: Aim): Requests {
  const { max_tokens, n, prompt_chars, messages, chat_chars } = aim.target.limits
  const fields = { max_tokens, ...(n > 1 ? { n } : {}) }
  const turns = messages % 2 === 0 ? messages - 1 : messages
  const long = (chars: number) => stretched(`${newText(aim)} `, chars)
  const conversation = () =>
    Array.from({ length: turns }, () => long(Math.floor(chat_chars / turns)))
  return {
    order: 'at once',
    shots: times(aim, 2, 4, () =>
      aim.random() < 0.5
        ? completion(aim, long(prompt_chars), fields)
        : chat(aim, conversation(), fields),
    ),
  }
}

const FOREIGN_PAGES = [
  'https://attacker.example/page',
  'http://169.254.169.254/latest/meta-data/',
  'http://127.0.0.1:8787/admin/usage',
  'http://[::1]/',
  'file:///etc/passwd',
] as const

function lockedPrompts(aim: Aim): Requests {
  const { prompts } = aim.target
  return {
    order: 'at once',
    shots: times(aim, 3, 6, () => {
      const listed = prompts[Math.floor(aim.random() * prompts.length)]
      const unknown = { prompt: { id: 'no-such-prompt' } }
      if (listed === undefined || aim.random() < 0.1) {
        return post(aim, '/v1/completions', unknown, { expects: 'refused' })
      }
      const hasPage = Object.values(listed.variables).some(({ from }) => from === 'url')
      const page = hasPage ? pick(FOREIGN_PAGES, aim.random) : undefined
      const prompt = filled(aim, listed, newText(aim), page)
      if (hasPage) return post(aim, '/v1/completions', { prompt }, { expects: 'refused' })
      if (aim.random() < 0.3) {
        return post(aim, '/v1/completions', { prompt, echo: true }, { expects: 'refused' })
      }
      return lockedRequest(aim, prompt)
    }),
  }
}

/** Its text is not public, so the variables and the longest answer are all that can be estimated. */
function lockedRequest(aim: Aim, prompt: object): Shot {
  const text = JSON.stringify({ prompt })
  const tokens = Buffer.byteLength(text) + aim.target.limits.max_tokens
  return post(aim, '/v1/completions', text, { tokens })
}

function search(aim: Aim): Shot {
  const text = newText(aim)
  const q = pick(
    [text, `"${text}`, `${text}* OR NEAR(`, "'); DROP TABLE x;--", 'x'.repeat(1000)],
    aim.random,
  )
  return shot(aim, `/v1/search?${new URLSearchParams({ q, limit: '20' })}`)
}

const base64url = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url')

/** Forged, altered and replayed tokens. Without Turnstile they have no meaning. */
function visitorTokens(aim: Aim): Requests {
  const { target, random } = aim
  const claims = { sub: `t:${'0'.repeat(16)}`, aud: 'edge-completions visitor', exp: 4e9, iat: 1 }
  const unsigned = `${base64url({ alg: 'none', typ: 'JWT' })}.${base64url({ ...claims, origin: target.origin })}.`
  const own = target.visitorToken
  const altered = own === null ? [] : [`${own.slice(0, -3)}${own.endsWith('AAA') ? 'BBB' : 'AAA'}`]
  const forged: readonly [string, ...string[]] = [unsigned, 'x'.repeat(2000), ...altered]
  const unpaid = target.turnstile ? ({ expects: 'refused', tokens: 0 } as const) : {}
  const shots = times(aim, 3, 6, () => {
    const headers = { 'x-visitor-token': pick(forged, random) }
    return completion(aim, newText(aim), {}, { headers, ...unpaid })
  })
  const challenge = post(aim, '/v1/visitors', { token: 'not-solved' })
  const replays = own === null ? [] : times(aim, 3, 6, () => spending(aim))
  return { order: 'at once', shots: [...shots, challenge, ...replays] }
}
