// The minimum work of a gateway for a stream: an upstream call whose events are parsed and serialized
// again, without cache, joining or accounting.
import { ask, push } from './upstream.js'

export default {
  async fetch(request, env, ctx) {
    const { prompt } = JSON.parse(await request.text())
    const { body } = await ask(env.UPSTREAM, prompt)
    const { readable, writable } = new IdentityTransformStream()
    ctx.waitUntil(push(body, writable.getWriter(), 0, crypto.randomUUID()))
    return new Response(readable, { headers: { 'content-type': 'text/event-stream' } })
  },
}
