// `npm run setup -- --deploy`: login, deploy, secrets, and one live check.
//
// The Worker is deployed before its secrets are set: until then it answers 503, as its key is missing.
// An upstream that needs no key answers at once, but within the deployed budget. The secrets follow in
// one command, so that the key is never there without the operator's token.
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { checkConfig } from '../config/check.ts'
import { SetupError } from './arguments.ts'
import { type CheckWorkerDeps, checkWorker } from './check-worker.ts'
import type { RunWrangler } from './command.ts'
import { isPrivateHost } from './hosts.ts'

export interface DeployDeps extends CheckWorkerDeps {
  readonly wrangler: RunWrangler
}

/**
 * @param secrets those of .dev.vars
 * @returns the Worker's address
 * @throws SetupError saying what failed, and how to go on
 */
export async function deploy(
  settings: unknown,
  secrets: Readonly<Record<string, string>>,
  deps: DeployDeps,
): Promise<string> {
  const { config, secrets: needed } = checkConfig(settings)
  const upstreams = [...(config?.upstreams.values() ?? [])]
  const local = upstreams.find(({ baseUrl }) => baseUrl !== '' && isPrivateHost(new URL(baseUrl)))
  if (local !== undefined) {
    throw new SetupError(
      `Cannot deploy: Cloudflare cannot reach ${local.baseUrl}. Choose another provider, or give "${local.name}" a public address with --base-url.`,
    )
  }
  await login(deps)
  const url = await upload(deps)
  // A CONFIG there replaces that of wrangler.toml on this machine. It is no secret, and a Worker
  // cannot have two bindings of one name.
  const isSent = ([name, value]: [string, string]) =>
    value !== '' && name !== 'CONFIG' && (needed.has(name) || !OF_WRANGLER.test(name))
  const sent = Object.fromEntries(Object.entries(secrets).filter(isSent))
  show(['secret', 'bulk'], deps, `${Object.keys(sent).join(', ')} on its standard input`)
  const { code } = await deps.wrangler(['secret', 'bulk'], { input: JSON.stringify(sent) })
  if (code !== 0) {
    throw new SetupError(
      'Cannot set the secrets. The Worker is deployed without them: it answers 503, or, if its model needs no key, it is already public and may spend its budget. Run npm run setup -- --deploy again, or remove it with npx wrangler delete.',
    )
  }
  await checkWorker({ url, token: secrets['OPERATOR_TOKEN'] ?? '', config }, deps)
  return url
}

/** What wrangler itself reads, such as a token that may change everything of an account. */
const OF_WRANGLER = /^(?:CLOUDFLARE_|WRANGLER_|CF_(?:ACCOUNT_ID|API_KEY|API_TOKEN|EMAIL)$)/

function show(args: readonly string[], { terminal }: DeployDeps, note = ''): void {
  terminal.print(`\n$ npx wrangler ${args.join(' ')}${note === '' ? '' : `   # with ${note}`}`)
}

async function login(deps: DeployDeps): Promise<void> {
  const who = ['whoami', '--json']
  show(who, deps)
  if ((await deps.wrangler(who, { isQuiet: true })).code === 0) return
  if (!deps.terminal.isInteractive) {
    throw new SetupError(
      'Cannot deploy: not logged in to Cloudflare. Run npx wrangler login, or set CLOUDFLARE_API_TOKEN, and run this again.',
    )
  }
  show(['login'], deps)
  if ((await deps.wrangler(['login'])).code !== 0) {
    throw new SetupError('Cannot deploy: the login failed. Run this again to go on.')
  }
}

/** @returns the Worker's address */
async function upload(deps: DeployDeps): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'setup-deploy-'))
  // Wrangler writes what it has done to this file; its output may ask the user, so it is not read.
  const report = join(folder, 'output.json')
  try {
    show(['deploy'], deps)
    const env = { WRANGLER_OUTPUT_FILE_PATH: report }
    if ((await deps.wrangler(['deploy'], { env })).code !== 0) {
      throw new SetupError(
        "Cannot deploy: see wrangler's message above. Fix that and run this again.",
      )
    }
    const url = addressIn(await readFile(report, 'utf8').catch(() => ''))
    if (url !== null) return url
    throw new SetupError(
      'The Worker is deployed, but wrangler reported no address for it, so its secrets are not set: set workers_dev or routes in wrangler.toml, and run this again.',
    )
  } finally {
    await rm(folder, { recursive: true })
  }
}

/** The Worker's own domain if it has one, else its address at workers.dev. */
function addressIn(report: string): string | null {
  const targets = report
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as { type: string; targets?: readonly string[] })
    .filter(({ type }) => type === 'deploy')
    .flatMap((entry) => entry.targets ?? [])
  const own = targets.find((target) => target.includes('(custom domain'))?.split(' ')[0]
  const host = own ?? targets.find((target) => target.endsWith('.workers.dev'))
  return host === undefined ? null : `https://${host.replace(/^https:\/\//, '')}`
}
