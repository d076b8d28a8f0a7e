// What every black-box suite begins with: an upstream server, and gateways that are stopped again.
// After each test the log of all running Workers must be quiet.
import { afterAll, afterEach, beforeAll } from 'vitest'
import type { MissContext } from '../../src/flight/miss.ts'
import { TestApp } from './app.ts'
import { CANARY } from './canary.ts'
import { OPERATOR_TOKEN, ORIGIN } from './client.ts'
import { localFlights } from './flights.ts'
import type { Gateway } from './gateway.ts'
import { expectQuiet } from './quiet.ts'
import { type RiggedWorkers, startRigged } from './rig.ts'
import { UpstreamServer } from './upstream-server.ts'
import { type JsonValue, startWorkers, type Workers, type WorkersOptions } from './workerd.ts'

type Table = Readonly<Record<string, JsonValue>>

export interface WorkerSuite {
  /** Available in hooks and tests. */
  readonly upstream: UpstreamServer
  /** A CONFIG with the model `m` on one upstream `u`, which this lane of the server answers. */
  config(lane: string, more?: Table, ofUpstream?: Table): Table
  /** A number that is unique in the suite, for lane names. */
  next(): number
  /** Starts Workers, by default with an operator, that are stopped after the test. */
  start(options?: WorkersOptions): Promise<Workers>
  /** The same on a platform that the test can break. */
  startRigged(options?: WorkersOptions): Promise<RiggedWorkers>
  /** Starts Workers, by default with an operator, that are stopped after the last test of the file. */
  share(options?: WorkersOptions): Promise<Workers>
  /** The gateway in process and in workerd, until the last test of the file. */
  readonly gateways: readonly (readonly [
    name: string,
    start: (config: Table) => Promise<Gateway>,
  ])[]
  /** Stops the Workers of this test, so that others can use their storage. */
  stop(): Promise<void>
}

export function workerSuite(): WorkerSuite {
  let upstream: UpstreamServer
  const ofTest: Workers[] = []
  const ofSuite: Workers[] = []
  let taken = 0
  const stop = async (all: Workers[]) => {
    for (const { log } of all) expectQuiet(log)
    await Promise.all(all.splice(0).map((workers) => workers.dispose()))
  }
  const keep = async <W extends Workers>(all: Workers[], starting: Promise<W>): Promise<W> => {
    const workers = await starting
    all.push(workers)
    return workers
  }
  const startOwn = (options: WorkersOptions) =>
    startWorkers({ secrets: { UPSTREAM_API_KEY: CANARY, OPERATOR_TOKEN }, ...options })
  beforeAll(async () => {
    upstream = await UpstreamServer.start()
  })
  afterEach(async () => {
    for (const { log } of ofSuite) expectQuiet(log)
    await stop(ofTest)
  })
  afterAll(async () => {
    await stop(ofSuite)
    await upstream.stop()
  })
  return {
    get upstream() {
      return upstream
    },
    config: (lane, more = {}, ofUpstream = {}) => ({
      origins: [ORIGIN],
      models: [{ id: 'm', upstream: 'u', upstream_model: 'm' }],
      upstreams: [
        { name: 'u', base_url: upstream.url(lane), key: 'UPSTREAM_API_KEY', ...ofUpstream },
      ],
      ...more,
    }),
    next: () => ++taken,
    start: (options = {}) => keep(ofTest, startOwn(options)),
    startRigged: (options) => keep(ofTest, startRigged(options)),
    share: (options = {}) => keep(ofSuite, startOwn(options)),
    gateways: [
      ['in process', async (config) => inProcess(config)],
      ['in workerd', (config) => keep(ofSuite, startOwn({ config }))],
    ],
    stop: () => stop(ofTest),
  }
}

/** The gateway in this process and in real time. It calls upstreams over the network, too. */
function inProcess(config: Table): Gateway {
  const clock = {
    get ms() {
      return Date.now()
    },
  }
  const flights = (miss: MissContext) => localFlights(miss).fetchObject
  return new TestApp({ config, clock, flights, upstream: (request) => fetch(request) })
}
