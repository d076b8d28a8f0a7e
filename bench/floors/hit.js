// The minimum work of a hit: read the body, parse it, hash it, return an answer from memory.
import { answer, take, type } from './at-hand.js'

const bytes = new TextEncoder()

export default {
  async fetch(request) {
    if (request.method === 'PUT') return await take(request)
    const text = await request.text()
    JSON.parse(text)
    await crypto.subtle.digest('SHA-256', bytes.encode(text))
    return new Response(answer, { headers: { 'content-type': type } })
  },
}
