// A suite in which each test starts its own rigged Workers, with lanes of one upstream server.
import { afterAll, afterEach, beforeAll } from 'vitest'
import { expectQuiet } from './quiet.ts'
import { type RiggedWorkers, startRigged } from './rig.ts'
import { UpstreamServer } from './upstream-server.ts'
import type { WorkersOptions } from './workerd.ts'

export interface RiggedSuite {
  /** Available while tests run. */
  readonly upstream: UpstreamServer
  /** A number that is unique in the suite, for lane names. */
  next(): number
  /** Starts Workers that are disposed of after the test. Their log must be clean by then. */
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
