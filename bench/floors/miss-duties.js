// The miss floor, and what a miss may not leave out, one or all of it (DUTIES): `limit`, the visitor's
// rate; `again`, KV read once more before money is spent; `settle`, the call's end told to the ledger;
// `log`, the request's line and the answer's.
import floor, { Flight as FloorFlight, Ledger as FloorLedger } from './miss.js'

export class Ledger extends FloorLedger {
  settle(id) {
    this.ctx.storage.sql.exec('UPDATE calls SET id = ? WHERE id = ?', `${id} ended`, id)
  }
}

export class Flight extends FloorFlight {
  async join(key, body, stream) {
    const { DUTIES, CACHE, LEDGER } = this.env
    if (DUTIES.includes('again')) await CACHE.get(key)
    const answer = await super.join(key, body, stream)
    if (DUTIES.includes('settle')) this.ctx.waitUntil(LEDGER.getByName('ledger').settle(key))
    if (DUTIES.includes('log')) log('generated', key)
    return answer
  }
}

export default {
  async fetch(request, env) {
    const key = request.headers.get('cf-connecting-ip')
    if (env.DUTIES.includes('limit')) await env.SPEND_LIMIT.limit({ key })
    const response = await floor.fetch(request, env)
    if (env.DUTIES.includes('log')) log('request', key)
    return response
  },
}

function log(event, request_id) {
  const figures = { upstream: 'bench', attempts: 1, tokens_in: 5, tokens_out: 7, ms: 12 }
  console.log(JSON.stringify({ event, request_id, status: 200, code: null, ...figures }))
}
