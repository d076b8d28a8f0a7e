// Our Worker with a ledger that can be filled with visitors: a PUT with a number repeats the last real
// reservation and settlement for that many visitors; a PUT of 0 restarts the ledger object.
import { env } from 'cloudflare:workers'
import worker, { LedgerObject as Ledger } from './worker.js'

export * from './worker.js'

export default {
  async fetch(request, ...context) {
    if (request.method !== 'PUT') return await worker.fetch(request, ...context)
    const visitors = Number(await request.text())
    const ledger = env.LEDGER.getByName('ledger')
    if (visitors === 0) await ledger.restart().catch(() => {})
    // Each call is one transaction, so limit its size.
    for (let from = 0; from < visitors; from += 5000) {
      await ledger.repeat(from, Math.min(visitors, from + 5000))
    }
    return new Response()
  },
}

export class LedgerObject extends Ledger {
  #reserved
  #settled

  reserve(request) {
    this.#reserved = request
    return super.reserve(request)
  }

  settle(id, ...cost) {
    this.#settled = cost
    return super.settle(id, ...cost)
  }

  async repeat(from, to) {
    for (let i = from; i < to; i++) {
      const id = `${i}-${this.#reserved.id}`
      const visitor = `${i}-${this.#reserved.visitor}`
      const { granted } = await super.reserve({ ...this.#reserved, id, visitor })
      if (!granted) throw new Error('not granted')
      await super.settle(id, ...this.#settled)
    }
  }

  restart() {
    this.ctx.abort('restart')
  }
}
