// Tries a deployed Worker: GET /health as its operator, and then one completion.
import type { Config } from '../../src/config/config.ts'
import { isRecord, parseJson } from '../../src/json.ts'
import { sampleRequest } from '../config/sample.ts'
import { readAtMost } from '../operator/body.ts'
import { type Fetch, refusalIn } from '../operator/gateway.ts'
import { printable } from '../operator/printable.ts'
import { SetupError } from './arguments.ts'
import type { Terminal } from './terminal.ts'

export interface CheckWorkerDeps {
  readonly terminal: Terminal
  readonly fetch: Fetch
  readonly pause: (ms: number) => Promise<unknown>
}

interface Worker {
  readonly url: string
  readonly token: string
  readonly config: Config | null
}

/** A new address needs up to a minute until it is known everywhere, and so do new secrets. */
const TRIES = 30
const PAUSE_MS = 2000
/** Figures are gathered for two seconds, in another isolate than the one that is read. */
const HINT_TRIES = 3
const MAX_BYTES = 4_194_304

/** @throws SetupError saying what the Worker lacks */
export async function checkWorker(worker: Worker, deps: CheckWorkerDeps): Promise<void> {
  const { url, config } = worker
  const { print } = deps.terminal
  print(`\nGET ${url}/health`)
  for (const warning of await warningsOf(worker, deps)) print(`warning: ${printable(warning)}`)
  const sample = config === null ? null : sampleRequest(config)
  if (sample === null)
    return print(
      'The Worker is ready. Its model was not tried, since that takes one of your pages: see the commands below.',
    )
  print(`POST ${url}${sample.path}`)
  const { status, requestId, text, body } = await ask(worker, deps, sample.path, sample.body)
  if (status !== 200) {
    const hint = (await hintFor(requestId, worker, deps)) ?? 'See /admin for the reason.'
    throw new SetupError(
      `The Worker is deployed, but the model does not answer: ${refusalIn(status, text)}\n${hint}`,
    )
  }
  const tokens = isRecord(body) && isRecord(body['usage']) ? body['usage']['total_tokens'] : '?'
  print(`The Worker answers: ${tokens} tokens spent.`)
}

/** Waits until the Worker knows its operator, who is told its warnings. */
async function warningsOf(worker: Worker, deps: CheckWorkerDeps): Promise<string[]> {
  let problem = ''
  for (let left = TRIES; left > 0; left -= 1) {
    const answer = await ask(worker, deps, '/health').catch(() => null)
    const health = isRecord(answer?.body) ? answer.body : {}
    const { warnings, faults } = health
    if (Array.isArray(warnings)) return warnings.map(String)
    problem = Array.isArray(faults)
      ? faults.map(({ path, message }) => printable(`${path}: ${message}`)).join('\n')
      : answer === null
        ? 'no connection'
        : `status ${answer.status}, but it does not accept OPERATOR_TOKEN yet`
    if (left > 1) await deps.pause(PAUSE_MS)
  }
  throw new SetupError(
    `The Worker is deployed, but ${worker.url}/health reports a problem:\n${problem}`,
  )
}

async function ask(
  { url, token }: Worker,
  { fetch }: CheckWorkerDeps,
  path: string,
  body?: object,
) {
  const request = new Request(url + path, {
    headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
    redirect: 'manual',
    ...(body === undefined ? {} : { method: 'POST', body: JSON.stringify(body) }),
  })
  const response = await fetch(request)
  const text = (await readAtMost(response, MAX_BYTES)).bytes.toString('utf8')
  const { status, headers } = response
  return { status, requestId: headers.get('x-request-id'), text, body: parseJson(text) }
}

/** The hint of the last failure that this request had at an upstream; null without one. */
async function hintFor(
  requestId: string | null,
  worker: Worker,
  deps: CheckWorkerDeps,
): Promise<string | null> {
  for (let left = HINT_TRIES; left > 0; left -= 1) {
    const figures = await ask(worker, deps, '/admin/usage?hours=1').catch(() => null)
    const given = isRecord(figures?.body) ? figures.body['failures'] : null
    const failures = Array.isArray(given) ? given.filter(isRecord) : []
    const own = failures.find((failure) => failure['request_id'] === requestId)
    if (own !== undefined) return typeof own['hint'] === 'string' ? printable(own['hint']) : null
    if (left > 1) await deps.pause(PAUSE_MS)
  }
  return null
}
