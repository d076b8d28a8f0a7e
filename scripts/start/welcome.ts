// What `npm start` prints when the Worker is ready: where to go next.

import type { ConfigCheck } from '../config/check.ts'
import { sampleRequest } from '../config/sample.ts'
import { shellCommand } from '../operator/shell.ts'
import { secretsIn } from '../setup/dev-vars.ts'

export interface Ready {
  readonly url: string
  /** The port that was asked for; 0: any. */
  readonly port: number
  /** The content of .dev.vars; null: there is no such file. */
  readonly devVars: string | null
  readonly config: ConfigCheck['config']
}

export function welcome({ url, port, devVars, config }: Ready): string {
  const isOther = port !== 0 && port !== Number(new URL(url).port)
  const taken = isOther ? [`Port ${port} was taken, so this is another one.`] : []
  return [
    '',
    ...taken,
    `Playground  ${url}`,
    `Dashboard   ${url}/admin (${tokenNote(devVars)})`,
    `Try it      ${tryIt(url, config)}`,
    '',
  ].join('\n')
}

function tokenNote(devVars: string | null): string {
  const advice = '"npm run setup" writes it, with a token'
  if (devVars === null) return `no .dev.vars: ${advice}`
  if (!secretsIn(devVars)['OPERATOR_TOKEN']) return 'add OPERATOR_TOKEN=… to .dev.vars'
  return 'sign in with the OPERATOR_TOKEN of .dev.vars'
}

/** A request that the configuration allows, for any version of curl. */
function tryIt(url: string, config: Ready['config']): string {
  if (config === null) return shellCommand('curl', `${url}/health`)
  const sample = sampleRequest(config)
  if (sample === null) return shellCommand('curl', `${url}/v1/prompts`)
  const type = ['-H', 'Content-Type: application/json']
  return shellCommand('curl', url + sample.path, ...type, '-d', JSON.stringify(sample.body))
}
