// The Durable Object that holds the index of the owner's site, one for the whole service. The logic
// is in search/site-index.ts.
import { DurableObject } from 'cloudflare:workers'
import type { Query } from '../search/query.ts'
import {
  type KnownPage,
  type Matches,
  type PageUpdate,
  type RemovedPage,
  SiteIndex,
  type SiteList,
  type StoredPage,
} from '../search/site-index.ts'

export class SiteObject extends DurableObject {
  readonly #index = new SiteIndex({
    exec: (query, ...values) => this.ctx.storage.sql.exec(query, ...values),
    transaction: (work) => this.ctx.storage.transactionSync(work),
  })

  find(query: Query, limit: number, origins: readonly string[]): Matches {
    return this.#index.find(query, limit, origins)
  }

  version(): number {
    return this.#index.version
  }

  page(name: string): KnownPage | null {
    return this.#index.page(name)
  }

  put(update: PageUpdate): StoredPage | null {
    return this.#index.put(update)
  }

  remove(name: string): RemovedPage {
    return this.#index.remove(name)
  }

  list(): SiteList {
    return this.#index.list()
  }
}
