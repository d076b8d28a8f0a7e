// The index of the owner's site in process: the Worker's own, on the SQLite of Node.
import { DatabaseSync } from 'node:sqlite'
import type { Platform } from '../../src/compose.ts'
import { SiteIndex, type Sql } from '../../src/search/site-index.ts'

export function memorySite(): Platform['site'] {
  const index = new SiteIndex(memorySql())
  return {
    find: async (...asked) => index.find(...asked),
    version: async () => index.version,
    page: async (name) => index.page(name),
    put: async (update) => index.put(update),
    remove: async (name) => index.remove(name),
    list: async () => index.list(),
  }
}

/** An empty database. */
export function memorySql(): Sql {
  const database = new DatabaseSync(':memory:')
  return {
    exec: (query, ...values) => database.prepare(query).all(...values) as never,
    transaction: (work) => {
      database.exec('BEGIN')
      try {
        const result = work()
        database.exec('COMMIT')
        return result
      } catch (error) {
        database.exec('ROLLBACK')
        throw error
      }
    },
  }
}
