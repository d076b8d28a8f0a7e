// The hit floor, and what each answer is owed besides, one or all of it (DUTIES): `log`, a line for
// each request; `headers`, the promised ones with an id; `bound`, on the time a body may take.
const bytes = new TextEncoder()
let answer = null

export default {
  async fetch(request, env) {
    const duties = env.DUTIES
    const text = await (duties.includes('bound') ? within(10_000, request.text()) : request.text())
    JSON.parse(text)
    await crypto.subtle.digest('SHA-256', bytes.encode(text))
    answer ??= bytes.encode(env.ANSWER)
    const id = `req_${crypto.randomUUID()}`
    if (duties.includes('log')) console.log(JSON.stringify(lineOf(request, id)))
    const headers = duties.includes('headers')
      ? { 'content-type': env.TYPE, ...promised(text, id) }
      : { 'content-type': env.TYPE }
    return new Response(answer, { headers })
  },
}

function lineOf({ headers }, request_id) {
  return {
    event: 'request',
    request_id,
    route: 'completions',
    status: 200,
    code: null,
    cache: 'memory',
    model: 'default',
    upstream: null,
    attempts: 0,
    tokens_in: 0,
    tokens_out: 0,
    ms: 0,
    visitor: headers.get('cf-connecting-ip'),
    origin: headers.get('origin'),
  }
}

function promised({ length }, id) {
  return {
    'cache-control': 'no-store',
    'cache-status': `edge-completions; hit; ttl=${length}; detail=memory`,
    'server-timing': 'cache;dur=0',
    vary: 'Origin, Accept',
    age: '1',
    etag: `"${id}.json"`,
    'x-request-id': id,
    'x-content-type-options': 'nosniff',
  }
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
