// The least a gateway does for a stream: one upstream call, each event parsed and written anew. It
// stores nothing, joins nothing and counts nothing.
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
