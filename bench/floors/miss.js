// The minimum work of a miss with singleflight: a KV read, a flight object, a ledger call, an upstream
// call whose answer is parsed and serialized again, a KV write.
import { DurableObject } from 'cloudflare:workers'
import { ask, completion } from './upstream.js'

const encoder = new TextEncoder()

export class LedgerObject extends DurableObject {
  constructor(context, env) {
    super(context, env)
    context.storage.sql.exec('CREATE TABLE IF NOT EXISTS calls (id TEXT PRIMARY KEY) WITHOUT ROWID')
  }

  reserve(id) {
    this.ctx.storage.sql.exec('INSERT INTO calls VALUES (?)', id)
    return true
  }
}

export class FlightObject extends DurableObject {
  async join(key, prompt) {
    await this.env.LEDGER.getByName('ledger').reserve(key)
    const response = await ask(this.env.UPSTREAM, prompt)
    let text = ''
    for await (const chunk of chunksOf(response.body))
      text += chunk.choices[0]?.delta?.content ?? ''
    const answer = completion(key, text, 'stop')
    this.ctx.waitUntil(this.env.CACHE.put(key, answer, { expirationTtl: 86_400 }))
    return answer
  }
}

export default {
  async fetch(request, env) {
    const text = await request.text()
    const { prompt } = JSON.parse(text)
    const digest = await crypto.subtle.digest('SHA-256', encoder.encode(text))
    const key = [...new Uint8Array(digest)].map((byte) => byte.toString(16)).join('')
    const hit = await env.CACHE.get(key)
    if (hit !== null) return new Response(hit)
    const answer = await env.FLIGHTS.getByName(key).join(key, prompt)
    return new Response(answer, { headers: { 'content-type': 'application/json' } })
  },
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
