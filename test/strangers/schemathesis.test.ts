// Schemathesis sends requests that /openapi.json allows and ones that it does not, and checks every
// response against it.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { OPERATOR_TOKEN } from '../support/client.ts'
import { workerSuite } from '../support/worker-suite.ts'
import { JudgedProxy } from './proxy.ts'
import { installed, run } from './venv.ts'
import { demo } from './worker.ts'

const VERSION = '4.32.5'
const suite = workerSuite()
let proxy: JudgedProxy
let bin: string
/** It leaves files in its folder, and would begin with them the next time. */
let folder: string

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'schemathesis-'))
  bin = await installed(`schemathesis==${VERSION}`)
  const workers = await suite.share(demo)
  proxy = await JudgedProxy.start(workers.url)
})

afterAll(async () => {
  await proxy?.stop()
  await rm(folder, { recursive: true, force: true })
})

const bounded = ['--phases', 'fuzzing,stateful', '--max-examples', '15', '--seed', '1']
// Some rules have no form in a JSON Schema: the last message is the user's, or a URL can be parsed.
// So a request that the schemas allow may still be refused, with a code.
const checks = ['--checks', 'all', '--exclude-checks', 'positive_data_acceptance']
const stable = ['--generation-database', 'none', '--suppress-health-check', 'all']

test.each([
  ['visitors', '^/(v1/|health|openapi)', []],
  // The last ones, because they pause the endpoint.
  ['the operator', '^/admin/', ['--header', `Authorization: Bearer ${OPERATOR_TOKEN}`]],
])(`schemathesis ${VERSION}: responses to %s are as /openapi.json says`, async (_, paths, more) => {
  const document = `${proxy.origin}/openapi.json`
  const only = ['--include-path-regex', paths]
  const args = ['--no-color', 'run', document, ...only, ...bounded, ...checks, ...stable, ...more]
  const report = await run(`${bin}/schemathesis`, args, {
    maxBuffer: 1e8,
    cwd: folder,
    timeout: 180_000,
  }).then(
    () => null,
    ({ stdout, stderr }) => stdout + stderr,
  )
  expect(report).toBe(null)
})
