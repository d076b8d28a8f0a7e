// A hit as the floor has it, and what each request is owed besides: an id, the promised headers, a
// bound on the time its body may take, and one line in the log. No judging, no key, no cache.
const bytes = new TextEncoder()
const strict = new TextDecoder('utf-8', { fatal: true })
let answer = null

export default {
  async fetch(request, env) {
    const text = strict.decode(await within(10_000, request.arrayBuffer()))
    const { prompt } = JSON.parse(text)
    await crypto.subtle.digest('SHA-256', bytes.encode(text))
    answer ??= bytes.encode(env.ANSWER)
    const id = `req_${crypto.randomUUID()}`
    const line = {
      event: 'request',
      request_id: id,
      status: 200,
      code: null,
      ms: 0,
      route: 'completions',
      cache: 'memory',
      model: 'default',
      upstream: null,
      attempts: 0,
      tokens_in: 0,
      tokens_out: 0,
      visitor: request.headers.get('cf-connecting-ip'),
      origin: request.headers.get('origin'),
    }
    console.log(JSON.stringify(line))
    return new Response(answer, {
      headers: {
        'content-type': env.TYPE,
        'cache-control': 'no-store',
        'cache-status': `edge-completions; hit; ttl=${prompt.length}; detail=memory`,
        'server-timing': 'cache;dur=0',
        vary: 'Origin, Accept',
        age: '1',
        etag: `"${id}.json"`,
        'x-request-id': id,
        'x-content-type-options': 'nosniff',
      },
    })
  },
}

async function within(ms, work) {
  let timer
  const late = new Promise((_, reject) => {
    timer = setTimeout(reject, ms)
  })
  try {
    return await Promise.race([work, late])
  } finally {
    clearTimeout(timer)
  }
}
