// What a black-box test needs of the gateway, whether it runs in process (TestApp) or as the bundle in
// workerd (Workers). Its upstreams are lanes of an UpstreamServer in both.
import type { Client } from './client.ts'
import type { WorkerLog } from './worker-log.ts'

export interface Gateway {
  client(): Client
  readonly log: WorkerLog
  /** Everything stored in CACHE. */
  kvEntries(): Promise<Map<string, string>>
}
