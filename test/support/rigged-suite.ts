// A suite in which each test starts rigged Workers of its own, with lanes of one upstream server.
import { afterAll, afterEach, beforeAll } from 'vitest'
import { expectQuiet } from './quiet.ts'
import { type RiggedWorkers, startRigged } from './rig.ts'
import { UpstreamServer } from './upstream-server.ts'
import type { WorkersOptions } from './workerd.ts'

export interface RiggedSuite {
  /** There while the tests run. */
  readonly upstream: UpstreamServer
  /** A number that no other test of the suite has: for the names of lanes. */
  next(): number
  /** Workers until the end of the test; their log must be quiet then. */
  start(options: WorkersOptions): Promise<RiggedWorkers>
}

export function riggedSuite(): RiggedSuite {
  let upstream: UpstreamServer
  const started: RiggedWorkers[] = []
  let taken = 0
  beforeAll(async () => {
    upstream = await UpstreamServer.start()
  })
  afterEach(async () => {
    for (const { log } of started) expectQuiet(log)
    await Promise.all(started.splice(0).map((workers) => workers.dispose()))
  })
  afterAll(() => upstream.stop())
  return {
    get upstream() {
      return upstream
    },
    next: () => ++taken,
    async start(options) {
      const workers = await startRigged(options)
      started.push(workers)
      return workers
    },
  }
}
