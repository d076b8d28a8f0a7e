// Prompts and chats share a cache key exactly when the upstream is sent the same.
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { parseConfig } from '../src/config/config.ts'
import { cacheKey } from '../src/request/cache-key.ts'
import { chatParser } from '../src/request/chat.ts'
import { draftRequest } from '../src/request/effective.ts'
import { requestParser } from '../src/request/schema.ts'
import { plan } from '../src/upstream/calls.ts'
import { connect } from '../src/upstream/connection.ts'
import { capableTargets } from '../src/upstream/failover.ts'
import { CANARY } from './support/canary.ts'

const upstreams = [
  { name: 'openai', preset: 'openai', key: 'KEY' },
  { name: 'compatible', base_url: 'https://a.test/v1', auth: 'none' },
  { name: 'anthropic', preset: 'anthropic', key: 'KEY' },
  { name: 'workers-ai', preset: 'workers-ai' },
  { name: 'vllm', preset: 'vllm' },
  { name: 'legacy', base_url: 'https://b.test/v1', auth: 'none', wire: 'completions' },
  { name: 'demo', preset: 'demo' },
]
const takingChats = upstreams.filter(({ name }) => name !== 'legacy')
const systems = [
  { id: 'plain' },
  { id: 'both', system: 'S', chat_system: 'S' },
  { id: 'prompts', system: 'S' },
  { id: 'chats', chat_system: 'S' },
]
/** Routes of several wires. */
const routes = [
  ['openai', 'anthropic', 'vllm'],
  ['anthropic', 'workers-ai'],
  ['demo', 'anthropic'],
  ['legacy', 'openai'],
  ['vllm', 'demo'],
]
const { config } = parseConfig({
  config: {
    origins: ['https://example.com'],
    free_prompts: true,
    models: [
      ...upstreams.flatMap(({ name }) =>
        systems.map(({ id, ...system }) => ({
          id: `${name} ${id}`,
          upstream: name,
          upstream_model: 'm',
          ...system,
        })),
      ),
      ...routes.flatMap(([upstream = '', ...others]) =>
        systems.map(({ id, ...system }) => ({
          id: `${upstream}, ${others.join(', ')}: ${id}`,
          upstream,
          upstream_model: 'm',
          fallbacks: others.map((other) => ({ upstream: other, upstream_model: 'm' })),
          ...system,
        })),
      ),
    ],
    upstreams,
    prompts: Object.fromEntries(
      takingChats.map(({ name }) => [
        name,
        {
          chat: true,
          system: '{{topic}}',
          text: '{{topic}}{{message}}',
          variables: { topic: { values: ['', 'a', 'S'] } },
          model: `${name} plain`,
        },
      ]),
    ),
  },
  prompts: {},
  secret: () => CANARY,
  bound: () => true,
})
if (config === null) throw new Error('expected a CONFIG without faults')
const { models, limits, prompts, defaults, freePrompts } = config
const options = { models, prompts, freePrompts, defaults, variableChars: 100 }
const parse = requestParser(limits)
const parseChat = chatParser(limits, (id) => prompts.has(id))
const unused = async () => new Response()
const connections = new Map(
  [...config.upstreams].map(([name, upstream]) => [
    name,
    connect(upstream, { http: unused, demo: unused, ai: unused }),
  ]),
)

/** The key of a request, and all that each upstream of its route would be sent, with what its answer is cut at. */
async function keyAndSent(body: Readonly<Record<string, unknown>>) {
  const request = 'messages' in body ? parseChat(body) : parse(body)
  const effective = draftRequest(request, options).render()
  const sent = capableTargets(effective, connections).map(({ upstream, upstream_model }) => {
    const connection = connections.get(upstream)
    if (connection === undefined) throw new Error('no such upstream')
    const { unsupported } = connection
    const calls = plan(effective, { model: upstream_model, stream: true, unsupported })
    return calls.map(({ request, stops }) => [
      connection.upstream.toWire(request, connection),
      stops,
    ])
  })
  const key = await cacheKey(effective, null, { version: 1, addresses: new Map() })
  return { key, sent: JSON.stringify([effective.model, sent]) }
}

function unlessUnsupported(error: unknown): null {
  expect(error).toMatchObject({ code: 'unsupported_by_upstream' })
  return null
}

/** Few texts, so that many of the requests mean the same. */
const content = fc.constantFrom('a', 'b', 'S', 'a\n\nb', 'S\n\na', 'Ann: a')
const message = fc.record(
  {
    role: fc.constantFrom('user', 'assistant', 'system', 'developer'),
    content: fc.oneof(
      content,
      content.map((text) => [{ type: 'text', text }]),
    ),
    name: fc.constantFrom('Ann', null),
  },
  { requiredKeys: ['role', 'content'] },
)
const last = fc.record(
  { role: fc.constant('user'), content, name: fc.constantFrom('Ann', null) },
  { requiredKeys: ['role', 'content'] },
)
const silence = fc.constant({ role: 'assistant', content: null })
const before = fc.array(fc.oneof({ weight: 9, arbitrary: message }, silence), { maxLength: 3 })
const field = fc.constantFrom<object>(
  {},
  {},
  { temperature: 1, user: 'Ann', stop: [], n: 1 },
  { max_tokens: 7 },
  { stop: ['x'] },
)
const chatField = fc.constantFrom<object>(
  { max_completion_tokens: 7, logprobs: false, response_format: { type: 'text' } },
  { logprobs: true },
  { response_format: { type: 'json_object' } },
  // A model writes the fields of its answer in this order.
  { response_format: { type: 'json_schema', json_schema: { schema: { a: {}, b: {} } } } },
  { response_format: { type: 'json_schema', json_schema: { schema: { b: {}, a: {} } } } },
)
const chat = fc
  .tuple(before, last, fc.oneof(field, chatField))
  .map(([before, last, fields]) => ({ messages: [...before, last], ...fields }))
const prompt = fc
  .tuple(content, fc.oneof(field, fc.constant({ logprobs: 0 })))
  .map(([text, fields]) => ({ prompt: text, ...fields }))

const isFromOwner = ({ role }: { readonly role: string }) => /system|developer/.test(role)

/** Expects that bodies have the same key if and only if the upstreams are sent the same. */
async function expectKeys(bodies: fc.Arbitrary<object>): Promise<number> {
  const keys = new Map<string, string>()
  const sents = new Map<string, string>()
  for (const body of fc.sample(bodies, { numRuns: 250, seed: 15 })) {
    // Null: no upstream of the model can do it.
    const asked = await keyAndSent({ ...body }).catch(unlessUnsupported)
    if (asked === null) continue
    const { key, sent } = asked
    expect([sents.get(key) ?? sent, keys.get(sent) ?? key]).toEqual([sent, key])
    sents.set(key, sent)
    keys.set(sent, key)
  }
  return keys.size
}

test.each([...models.keys()])('model "%s"', async (model) => {
  // A visitor's system message beside the owner's is refused.
  const isOwners = models.get(model)?.chat.system !== null
  const chats = isOwners ? chat.filter(({ messages }) => !messages.some(isFromOwner)) : chat
  const count = await expectKeys(fc.oneof(prompt, chats).map((body) => ({ ...body, model })))
  // A model without a path for chats has few other requests.
  expect(count).toBeGreaterThan(/^legacy [a-z]+$/.test(model) ? 10 : 20)
})

test.each([...prompts.keys()])('locked chat of the upstream "%s"', async (model) => {
  const talk = fc.tuple(before, last, fc.constantFrom('', 'a', 'S'))
  const bodies = talk.map(([before, last, topic]) => ({
    model,
    variables: { topic },
    messages: [...before, last].filter((message) => !isFromOwner(message)),
  }))
  expect(await expectKeys(bodies)).toBeGreaterThan(20)
})
