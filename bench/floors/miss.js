// What no miss can do without, if identical ones are to meet: a KV read, one object for the key, one
// call of the ledger's, one upstream call that is parsed and written anew, a KV write. JSON or events;
// events are parsed and sent on one by one.
import { DurableObject } from 'cloudflare:workers'

const encoder = new TextEncoder()

export class Ledger extends DurableObject {
  constructor(context, env) {
    super(context, env)
    context.storage.sql.exec('CREATE TABLE IF NOT EXISTS calls (id TEXT PRIMARY KEY) WITHOUT ROWID')
  }

  reserve(id) {
    this.ctx.storage.sql.exec('INSERT INTO calls VALUES (?)', id)
    return true
  }
}

export class Flight extends DurableObject {
  async join(key, body, stream) {
    await this.env.LEDGER.getByName('ledger').reserve(key)
    const response = await fetch(this.env.UPSTREAM, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({
        model: 'm',
        messages: [{ role: 'user', content: body.prompt }],
        stream: true,
      }),
    })
    if (stream) return this.#stream(key, response.body)
    let text = ''
    for await (const chunk of chunksOf(response.body))
      text += chunk.choices[0]?.delta?.content ?? ''
    const answer = JSON.stringify(completion(key, text, 'stop'))
    this.ctx.waitUntil(this.env.CACHE.put(key, answer, { expirationTtl: 86_400 }))
    return answer
  }

  #stream(key, body) {
    const chunks = chunksOf(body)
    const { env, ctx } = this
    let whole = ''
    return new ReadableStream({
      async pull(controller) {
        const { value, done } = await chunks.next()
        if (done) {
          controller.enqueue(encoder.encode('data: [DONE]\n\n'))
          controller.close()
          const answer = JSON.stringify(completion(key, whole, 'stop'))
          ctx.waitUntil(env.CACHE.put(key, answer, { expirationTtl: 86_400 }))
          return
        }
        const text = value.choices[0]?.delta?.content ?? ''
        whole += text
        const event = completion(key, text, value.choices[0]?.finish_reason ?? null)
        controller.enqueue(encoder.encode(`data: ${JSON.stringify(event)}\n\n`))
      },
    })
  }
}

export default {
  async fetch(request, env) {
    const text = await request.text()
    const body = JSON.parse(text)
    const digest = await crypto.subtle.digest('SHA-256', encoder.encode(text))
    const key = [...new Uint8Array(digest)].map((byte) => byte.toString(16)).join('')
    const hit = await env.CACHE.get(key)
    if (hit !== null) return new Response(hit)
    const stream = body.stream === true
    const answer = await env.FLIGHTS.getByName(key).join(key, body, stream)
    const type = stream ? 'text/event-stream' : 'application/json'
    return new Response(answer, { headers: { 'content-type': type } })
  },
}

function completion(id, text, finish_reason) {
  return {
    id,
    object: 'text_completion',
    created: 1,
    model: 'm',
    choices: [{ text, index: 0, logprobs: null, finish_reason }],
  }
}

async function* chunksOf(body) {
  const decoder = new TextDecoder()
  let rest = ''
  for await (const bytes of body) {
    rest += decoder.decode(bytes, { stream: true })
    const events = rest.split('\n\n')
    rest = events.pop()
    for (const event of events) {
      const data = event.slice('data: '.length)
      if (data === '[DONE]') return
      yield JSON.parse(data)
    }
  }
}
