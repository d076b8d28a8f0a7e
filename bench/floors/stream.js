// The minimum work of a stream that is cached, shared and accounted for: a KV read, a flight object, the
// reservation, an upstream call whose events are parsed and serialized again, the settlement, a KV write.
// GATHER_MS is the coalescing window for text after the first; 0 writes each event separately.
import { DurableObject } from 'cloudflare:workers'
import { ask, completion, push } from './upstream.js'

const encoder = new TextEncoder()

export class LedgerObject extends DurableObject {
  constructor(context, env) {
    super(context, env)
    context.storage.sql.exec(
      'CREATE TABLE IF NOT EXISTS spent (visitor TEXT PRIMARY KEY, tokens INTEGER) WITHOUT ROWID',
    )
  }

  reserve(visitor, tokens) {
    this.ctx.storage.sql.exec(
      `INSERT INTO spent VALUES (?, ?)
       ON CONFLICT (visitor) DO UPDATE SET tokens = tokens + excluded.tokens`,
      visitor,
      tokens,
    )
    return true
  }

  settle(visitor, unspent) {
    this.ctx.storage.sql.exec(
      'UPDATE spent SET tokens = tokens - ? WHERE visitor = ?',
      unspent,
      visitor,
    )
  }
}

export class FlightObject extends DurableObject {
  async fetch(request) {
    const { key, visitor, prompt } = await request.json()
    const { env, ctx } = this
    await env.LEDGER.getByName('ledger').reserve(visitor, 500)
    const { body } = await ask(env.UPSTREAM, prompt)
    const { readable, writable } = new IdentityTransformStream()
    ctx.waitUntil(this.#fly(key, visitor, body, writable.getWriter()))
    return new Response(readable)
  }

  async #fly(key, visitor, body, writer) {
    const { env } = this
    const text = await push(body, writer, Number(env.GATHER_MS), key)
    await Promise.all([
      env.LEDGER.getByName('ledger').settle(visitor, 450),
      env.CACHE.put(key, completion(key, text, 'stop'), { expirationTtl: 86_400 }),
    ])
  }
}

export default {
  async fetch(request, env) {
    const text = await request.text()
    const { prompt } = JSON.parse(text)
    const digest = await crypto.subtle.digest('SHA-256', encoder.encode(text))
    const key = [...new Uint8Array(digest)]
      .map((byte) => byte.toString(16).padStart(2, '0'))
      .join('')
    const headers = { 'content-type': 'text/event-stream' }
    const hit = await env.CACHE.get(key)
    if (hit !== null) return new Response(`data: ${hit}\n\ndata: [DONE]\n\n`, { headers })
    const visitor = request.headers.get('cf-connecting-ip')
    const flight = await env.FLIGHTS.getByName(`f${key.slice(0, 2)}`).fetch('http://flight/', {
      method: 'POST',
      body: JSON.stringify({ key, visitor, prompt }),
    })
    return new Response(flight.body, { headers })
  },
}
