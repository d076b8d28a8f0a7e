// Searches everything the Worker writes in a busy session: log lines, KV, object rows, responses,
// alerts. Nothing of a visitor may be in any of it, except the answer where it belongs.
import { afterAll, beforeAll, expect, test } from 'vitest'
import { CANARY } from '../support/canary.ts'
import { type ClientRequest, OPERATOR_TOKEN, ORIGIN } from '../support/client.ts'
import { type RiggedWorkers, startRigged } from '../support/rig.ts'
import {
  completionsStream,
  event,
  json,
  refusal,
  type Script,
  UpstreamServer,
} from '../support/upstream-server.ts'

const secretOfTurnstile = '0x4AAAAAAAmarkerTurnstileSecret7q'
/** Marks for each private value. None may be found where it does not belong. */
const markers = {
  prompt: 'marker-prompt-Hw2kLq',
  suffix: 'marker-suffix-Pz7dTb',
  variable: 'marker-variable-Vn4xRc',
  locked: 'marker-locked-text-Kf9sMj',
  user: 'marker-user-Bt6wQy',
  answer: 'marker-answer-Gd3vXe',
  upstreamError: 'marker-upstream-error-Ls8cNa',
  upstreamHeader: 'marker-upstream-header-Ye5uFo',
  address: '203.0.113.77',
  address6: '2001:db8:5eed:1234',
  challenge: 'marker-challenge-Jr1hZi',
  operator: OPERATOR_TOKEN,
  turnstile: secretOfTurnstile,
  tokenSecret: 'marker-token-secret-Cm0pWu',
  guess: 'marker-wrong-bearer-Ao2gSk',
  path: 'marker-path-Ed6rVl',
  key: CANARY,
} as const
type Marker = keyof typeof markers

let upstream: UpstreamServer
let workers: RiggedWorkers
const responses: { readonly what: string; readonly text: string }[] = []
let visitorToken = ''

const evil: Script = (call, line) =>
  refusal(
    400,
    {
      error: {
        message: `${markers.upstreamError} ${call.text} ${CANARY}`,
        code: markers.upstreamError,
      },
    },
    { 'x-request-id': markers.upstreamHeader, 'retry-after': '1' },
  )(call, line)

const broken: Script = async (_, line) => {
  line.head(200, { 'content-type': 'text/event-stream', 'transfer-encoding': 'chunked' })
  line.chunk(event({ choices: [{ index: 0, text: markers.answer, finish_reason: null }] }))
  line.chunk(event({ error: { message: markers.upstreamError, code: 'x' } }))
  await line.flushed()
  line.end()
}

async function ask(what: string, sent: ClientRequest): Promise<string> {
  const { status, headers, text } = await workers.client().send({
    ...sent,
    headers: {
      'cf-connecting-ip': markers.address,
      'x-visitor-token': visitorToken,
      ...sent.headers,
    },
  })
  responses.push({ what, text: `${status} ${JSON.stringify(headers)} ${text}` })
  return text
}

const post = (what: string, body: object, headers: ClientRequest['headers'] = {}) =>
  ask(what, { method: 'POST', body: { user: markers.user, ...body }, headers })

beforeAll(async () => {
  upstream = await UpstreamServer.start()
  const models = ['good', 'evil', 'broken', 'chat-broken', 'html']
  workers = await startRigged({
    config: {
      origins: [ORIGIN],
      models: models.map((id) => ({ id, upstream: id, upstream_model: 'm' })),
      upstreams: models.map((name) => ({
        name,
        base_url: upstream.url(name),
        key: 'UPSTREAM_API_KEY',
        wire: 'completions',
        chat_path: '/chat/completions',
        retries: 0,
      })),
      prompts: {
        letter: { text: `${markers.locked} {{to}}`, variables: { to: { max_chars: 100 } } },
      },
      free_prompts: true,
      budget: { tokens_per_day: 3000, tokens_per_visitor_per_day: 2900 },
      access: { turnstile_sitekey: '0x4AAAAAAADnPIDROrmt1Wwj' },
    },
    secrets: {
      TURNSTILE_SECRET: secretOfTurnstile,
      TOKEN_SECRET: markers.tokenSecret,
      SITEVERIFY: upstream.url('siteverify'),
      ALERT_URL: upstream.url('alerts'),
    },
  })
  const good = { success: true, hostname: 'site.example', action: 'visitor' }
  upstream
    .lane('siteverify')
    .answers(
      json(good),
      json({ success: false, 'error-codes': [markers.upstreamError] }),
      json(good),
    )
  upstream.lane('alerts').answers(refusal(500, markers.upstreamError))
  upstream.lane('good').answers(completionsStream([`${markers.answer} `, 'end']))
  upstream.lane('evil').answers(evil)
  upstream.lane('broken').answers(broken)
  upstream.lane('chat-broken').answers(broken)
  upstream.lane('html').answers((_, line) => {
    line.head(200, { 'content-type': 'text/html', 'x-request-id': markers.upstreamHeader })
    line.write(`<html>${markers.upstreamError}</html>`)
    line.end()
  })
  await session()
}, 60_000)

afterAll(async () => {
  await workers.dispose()
  await upstream.stop()
})

/** Everything that can happen to a visitor, once. */
async function session(): Promise<void> {
  const challenge = { method: 'POST', path: '/v1/visitors', body: { token: markers.challenge } }
  const minted = await ask('mint', challenge)
  visitorToken = JSON.parse(minted).token
  // This one is meant for the visitor.
  responses.pop()
  await ask('refused challenge', challenge)
  const { prompt, suffix, variable, address6 } = markers
  for (const stream of [false, true]) {
    const v6 = { 'cf-connecting-ip': `${address6}::77` }
    await post('miss', { prompt, stream, max_tokens: stream ? 21 : 20 }, v6)
    await post('hit', { prompt, stream, max_tokens: stream ? 21 : 20 })
    await post('locked', { prompt: { id: 'letter', variables: { to: variable } }, stream })
    await post('evil', { prompt, model: 'evil', stream, max_tokens: 20 })
    await post('html', { prompt, model: 'html', stream, max_tokens: 20 })
    await post(
      'no-store',
      { prompt: `${prompt} 2`, stream, max_tokens: 20 },
      { 'cache-control': 'no-store' },
    )
  }
  for (const path of ['/v1/chat/completions', '/v1/ai-sdk']) {
    const isHook = path.endsWith('sdk')
    const messages = ['user', 'assistant', 'user'].map((role) =>
      isHook
        ? { role, parts: [{ type: 'text', text: prompt }] }
        : { role, content: prompt, name: variable },
    )
    const talk = (what: string, more: object = {}) =>
      ask(what, { method: 'POST', path, body: { messages, max_tokens: 20, ...more } })
    await talk('chat')
    await talk('chat')
    await talk('chat evil', { model: 'evil' })
    await talk('chat broken', { model: 'chat-broken', ...(isHook ? {} : { stream: true }) })
    await talk('chat last', { messages: messages.slice(0, 2) })
    await talk('chat model', { model: 'letter', variables: { to: 1 } })
  }
  await post('broken', { prompt, model: 'broken', stream: true, max_tokens: 20 })
  await post('suffix', { prompt, suffix, max_tokens: 20 })
  await ask('GET hit', { path: `/v1/completions?prompt=${prompt}&max_tokens=20` })
  await ask('GET miss', { path: `/v1/completions?prompt=${prompt}-3` })
  await ask('path', { path: `/${markers.path}/%2e%2e/${markers.path}` })
  await ask('origin', {
    method: 'POST',
    body: { prompt },
    headers: { origin: 'https://evil.example' },
  })
  await ask('bad json', { method: 'POST', body: `{"prompt": "${prompt}", ${prompt}` })
  const bearer = { 'x-visitor-token': null, authorization: `Bearer ${markers.guess}` }
  await post('bad bearer', { prompt }, bearer)
  await ask('no operator', { path: '/admin/usage', headers: bearer })
  const operator = { authorization: `Bearer ${OPERATOR_TOKEN}`, 'cache-control': 'no-cache' }
  await post('forced', { prompt, max_tokens: 20 }, operator)
  await ask('purge', {
    method: 'POST',
    path: '/admin/purge',
    body: { request: { prompt } },
    headers: operator,
  })
  await ask('health', { path: '/health' })
  await ask('prompts', { path: '/v1/prompts' })
  for (let i = 0; i < 12; i++)
    await post('spend', { prompt: `${prompt} ${i}`, model: 'broken', max_tokens: 200 })
  await workers.rig.set({ ledger: 'throws', limit: 'throws' })
  await post('no ledger', { prompt: `${prompt} 4` })
  await workers.rig.set({ ledger: 'ok', limit: 'ok' })
  await ask('usage', { path: '/admin/usage', headers: operator })
  await workers.log.find((one) => one.event === 'alert_failed')
}

/** The markers found in a text, in any encoding it could be stored in. */
function found(text: string, but: readonly Marker[] = []): Marker[] {
  const names = (Object.keys(markers) as Marker[]).filter((name) => !but.includes(name))
  return names.filter((name) => {
    const marker = markers[name]
    const spellings = [
      marker,
      encodeURIComponent(marker),
      Buffer.from(marker).toString('base64').replace(/=+$/, ''),
      Buffer.from(marker).toString('hex'),
    ]
    return spellings.some((spelling) => text.includes(spelling))
  })
}

function tokenIn(text: string): boolean {
  const parts = visitorToken.split('.')
  return parts.slice(1).some((part) => text.includes(part))
}

test('the session had every kind of event and failure', () => {
  const kinds = new Set(workers.log.events.map(({ event: kind }) => kind))
  for (const kind of [
    'request',
    'generated',
    'upstream_failed',
    'visitor_refused',
    'budget_mark',
    'alert_failed',
  ]) {
    expect(kinds).toContain(kind)
  }
  const codes = new Set(workers.log.all('request').map(({ code }) => code))
  for (const code of [
    null,
    'upstream_refused_request',
    'upstream_bad_response',
    'challenge_failed',
    'visitor_token_invalid',
    'operator_token_invalid',
    'origin_not_allowed',
    'not_cached',
    'invalid_json',
    'budget_exhausted',
    'ledger_unavailable',
  ] as const) {
    expect(codes).toContain(code)
  }
  expect(visitorToken.split('.')).toHaveLength(3)
})

test('no log line has anything of a visitor, an answer, an upstream or a secret', () => {
  const lines = workers.log.events.map((one) => JSON.stringify(one))
  expect(lines.length).toBeGreaterThan(40)
  for (const line of [...lines, ...workers.log.takeRuntimeLines()]) {
    expect(found(line), line).toEqual([])
    expect(tokenIn(line)).toBe(false)
    expect(line.length).toBeLessThan(2000)
  }
})

test('KV has answers but no prompts', async () => {
  const entries = await workers.kvEntries()
  expect(entries.size).toBeGreaterThanOrEqual(3)
  for (const [key, value] of entries) {
    expect(found(key)).toEqual([])
    expect(found(value, ['answer'])).toEqual([])
    expect(tokenIn(value)).toBe(false)
  }
  expect([...entries.values()].some((value) => value.includes(markers.answer))).toBe(true)
})

test('the rows of the objects have only hashes, codes, counts and names of CONFIG', async () => {
  const rows = await workers.rig.rows()
  expect(rows.visitors.length).toBeGreaterThanOrEqual(1)
  expect(rows.hours.length).toBeGreaterThanOrEqual(1)
  const text = JSON.stringify(rows)
  expect(found(text)).toEqual([])
  expect(tokenIn(text)).toBe(false)
  for (const { visitor } of rows.visitors) expect(visitor).toMatch(/^[ht]:[0-9a-f]{16}$/)
})

test('a response has nothing but the answer', () => {
  for (const { what, text } of responses) {
    expect(found(text, ['answer']), what).toEqual([])
    expect(tokenIn(text), what).toBe(false)
    if (
      !/^(chat|chat broken|hit|miss|locked|no-store|broken|suffix|forced|GET hit|spend)$/.test(what)
    ) {
      expect(text, what).not.toContain(markers.answer)
    }
  }
})

test('an alert has figures only', async () => {
  const { calls } = upstream.lane('alerts')
  expect(calls.length).toBeGreaterThanOrEqual(1)
  for (const { text, headers } of calls) {
    expect(found(text + JSON.stringify(headers))).toEqual([])
  }
})

test('an upstream receives the prompt and nothing about the visitor', () => {
  for (const name of ['good', 'evil', 'broken', 'chat-broken', 'html']) {
    for (const { text, headers } of upstream.lane(name).calls) {
      const { authorization, ...others } = headers
      expect(authorization).toBe(`Bearer ${CANARY}`)
      const outgoing = text + JSON.stringify(others)
      expect(found(outgoing, ['prompt', 'suffix', 'variable', 'locked'])).toEqual([])
      expect(tokenIn(outgoing)).toBe(false)
    }
  }
})
