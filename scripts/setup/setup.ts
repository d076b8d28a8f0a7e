// The course of `npm run setup`: questions, a look at the site, one real call, the two files, and the
// snippet to paste.
import { hints } from '../../src/upstream/hints.ts'
import type { Fetch } from '../operator/gateway.ts'
import { printable } from '../operator/printable.ts'
import {
  type Arguments,
  type ProviderChoice,
  parseArguments,
  SetupError,
  USAGE,
} from './arguments.ts'
import { type DeployDeps, deploy } from './deploy.ts'
import { secretsIn, withSecrets } from './dev-vars.ts'
import {
  type Change,
  checkSecrets,
  planSecrets,
  planSettings,
  readDevVars,
  readSettings,
  write,
} from './files.ts'
import { nameOf } from './generators.ts'
import { tryModel } from './live-check.ts'
import { findAddress, findModel, type LookUpDeps, RefusedKey } from './model-choice.ts'
import { pageCommands } from './page-commands.ts'
import { helpAtFixedAddress, needsBaseUrl, needsKey, needsModel } from './providers.ts'
import {
  askBaseUrl,
  askKey,
  askOffer,
  askProvider,
  askSite,
  confirm,
  parseKey,
  requireFlags,
} from './questions.ts'
import { type Answers, budgetOf, KEY_NAME, modelOf, settingsOf } from './settings.ts'
import { inspectSite, type Site } from './site.ts'
import { snippetFor } from './snippets.ts'
import { type StoredKey, type StoredKeyOf, storedKeyIn } from './stored-key.ts'
import { Interrupted, type Terminal } from './terminal.ts'

const OK = 0
/** The model does not answer, so nothing is written; or something after that failed. */
const FAILED = 1
const NOT_STARTED = 2
/** The convention of shells: 128 plus the number of SIGINT. */
const INTERRUPTED = 130

/** Setup replaces shorter tokens. The Worker refuses only those of fewer than 24 (src/config/warnings.ts). */
const STRONG_TOKEN_CHARS = 32
const LOCAL = 'http://localhost:8787'
/** The hints of an upstream that cannot be reached. */
const UNREACHED: readonly string[] = [hints.not_sent, hints.connection_lost, hints.no_connection]

export interface SetupDeps extends DeployDeps {
  /** The clone. */
  readonly folder: string
  /** A random token for the operator. */
  readonly newToken: () => string
}

/** @returns the exit code */
export async function setUp(argv: readonly string[], deps: SetupDeps): Promise<number> {
  const { print } = deps.terminal
  try {
    const args = parseArguments(argv)
    if (args.help) {
      print(USAGE)
      return OK
    }
    return await configure(args, deps)
  } catch (error) {
    if (!(error instanceof SetupError || error instanceof Interrupted)) throw error
    print(error.message)
    return error instanceof Interrupted ? INTERRUPTED : NOT_STARTED
  }
}

async function configure(args: Arguments, deps: SetupDeps): Promise<number> {
  const { terminal, fetch, folder } = deps
  const vars = await readDevVars(folder)
  const known = secretsIn(vars)
  const stored = storedKeyIn(known, await readSettings(folder))
  if (!terminal.isInteractive) requireFlags(args, stored)
  const { answers, key } = await answersOf(args, stored, deps)
  const { config, change } = await planSettings(folder, settingsOf(answers))
  const isStrong = (known['OPERATOR_TOKEN'] ?? '').length >= STRONG_TOKEN_CHARS
  const secrets = {
    ...(key === null ? {} : { [KEY_NAME]: key }),
    ...(isStrong ? {} : { OPERATOR_TOKEN: deps.newToken() }),
  }
  const all = { ...known, ...secrets }
  const nextVars = withSecrets(vars, secrets)
  await checkSecrets(folder, nextVars, secrets)
  const changes = [change, planSecrets(vars, nextVars)].filter(
    ({ before, after }) => before !== after,
  )
  if (!(await isWanted(changes, args, terminal))) return OK
  // First, as a mistake must not replace what worked.
  const answered = !args.check || (await check(answers, config, all, fetch, terminal))
  if (!answered && !(await isWantedAnyway(changes, args, terminal))) return FAILED
  await writeAll(changes, deps)
  terminal.print(`\nBudget: ${budgetOf(answers)}.`)
  const endpoint = args.deploy ? await deployed(config, all, deps) : LOCAL
  if (endpoint === null) return FAILED
  showSnippet(answers, endpoint, terminal)
  showNextSteps(answers, endpoint, terminal)
  return OK
}

/** Answers every question, by a flag or on the terminal. */
async function answersOf(
  args: Arguments,
  stored: StoredKeyOf,
  { terminal, fetch }: SetupDeps,
): Promise<{ answers: Answers; key: string | null }> {
  const site = await inspectSite(args.site ?? (await askSite(terminal)), fetch)
  for (const line of siteLines(site)) terminal.print(line)
  const given = await providerOf(args, terminal)
  const looksUp = args.model === null && needsModel(given.preset)
  const choice = looksUp ? await answering(given, { terminal, fetch }) : given
  const { preset } = choice
  const key = needsKey(preset) ? await keyOf(args, preset, stored(choice), terminal) : null
  const found = looksUp
    ? await modelAndKey(choice, key, args, { terminal, fetch })
    : { model: args.model, key }
  const offer = args.offer ?? (await askOffer(terminal))
  return { answers: { site, ...choice, model: found.model, offer }, key: found.key }
}

/** Asks for the address until a server answers there. */
async function answering(choice: ProviderChoice, deps: LookUpDeps): Promise<ProviderChoice> {
  const { preset } = choice
  let { baseUrl } = choice
  for (;;) {
    if (baseUrl === null) return choice
    try {
      return { preset, baseUrl: await findAddress(preset, baseUrl, deps) }
    } catch (error) {
      if (!(error instanceof SetupError) || !deps.terminal.isInteractive) throw error
      deps.terminal.print(error.message)
      baseUrl = await askBaseUrl(deps.terminal)
    }
  }
}

/** Asks for the key until the server accepts it. */
async function modelAndKey(
  choice: ProviderChoice,
  given: string | null,
  { keyStdin }: Arguments,
  deps: LookUpDeps,
): Promise<{ model: string; key: string | null }> {
  const { terminal } = deps
  for (let key = given; ; ) {
    try {
      return { model: await findModel({ ...choice, key }, deps), key }
    } catch (error) {
      const isAskable = terminal.isInteractive && !keyStdin && key !== null
      if (!(error instanceof RefusedKey) || !isAskable) throw error
      terminal.print(error.message)
      key = await askKey(terminal, choice.preset, { kind: 'none' })
    }
  }
}

async function providerOf(args: Arguments, terminal: Terminal): Promise<ProviderChoice> {
  const { preset, baseUrl } = args
  if (preset === null) return await askProvider(terminal)
  const asksAddress = baseUrl === null && needsBaseUrl(preset)
  return { preset, baseUrl: asksAddress ? await askBaseUrl(terminal) : baseUrl }
}

async function keyOf(
  { keyStdin }: Arguments,
  preset: string,
  stored: StoredKey,
  terminal: Terminal,
): Promise<string> {
  if (keyStdin) return parseKey(await terminal.readInput())
  if (!terminal.isInteractive && stored.kind === 'fits') return stored.key
  return await askKey(terminal, preset, stored)
}

function siteLines(site: Site): string[] {
  const { url, problem, generator, sitemap, otherSitemap, origins } = site
  if (problem !== null) {
    return [`${url.origin} could not be read (${problem}), so what follows fits any site.`]
  }
  const moved = origins.length > 1 ? [`It redirects to ${origins[1]}.`] : []
  const other =
    otherSitemap === null
      ? []
      : [
          `robots.txt names a sitemap on another host, which is not read: ${printable(otherSitemap)}`,
        ]
  return [
    ...moved,
    `Generator: ${nameOf(generator)}. Sitemap: ${sitemap ?? 'not found'}.`,
    ...other,
  ]
}

/** Shows the changes, and asks whether to write them. */
async function isWanted(
  changes: readonly Change[],
  { yes }: Arguments,
  terminal: Terminal,
): Promise<boolean> {
  for (const { name, diff } of changes) terminal.print(`\n${name}:\n${diff}`)
  if (changes.length === 0) {
    terminal.print('\nwrangler.toml and .dev.vars already have these settings.')
    return true
  }
  terminal.print('')
  if (yes || (await confirm(terminal, 'Write this?', 'yes'))) return true
  terminal.print('Nothing is written.')
  return false
}

/** Asks whether to write the changes although the model does not answer. */
async function isWantedAnyway(
  changes: readonly Change[],
  { yes }: Arguments,
  terminal: Terminal,
): Promise<boolean> {
  const asks = changes.length > 0 && terminal.isInteractive && !yes
  if (asks && (await confirm(terminal, 'Write it all the same?', 'no'))) return true
  terminal.print(
    'Nothing is written. Fix that and run this again, or add --no-check to write all the same.',
  )
  return false
}

async function writeAll(
  changes: readonly Change[],
  { terminal, folder }: SetupDeps,
): Promise<void> {
  for (const change of changes) {
    const copy = await write(folder, change)
    terminal.print(`Written: ${change.name}${copy === null ? '' : ` (the previous one: ${copy})`}`)
  }
}

/** One real call. @returns whether the model answers */
async function check(
  answers: Answers,
  config: unknown,
  secrets: Readonly<Record<string, string>>,
  fetch: Fetch,
  { print }: Terminal,
): Promise<boolean> {
  const name = `${answers.preset}, ${modelOf(answers)}`
  const result = await tryModel(config, secrets, fetch)
  if (result.kind === 'not-here') {
    print(`Not checked: ${answers.preset} answers only a deployed Worker.`)
  } else if (result.kind === 'answered') {
    const cost = result.tokens === null ? '' : `, ${result.tokens} tokens spent`
    print(`Checked with one real call: ${name} answers${cost}.`)
  } else {
    const status = result.status === null ? '' : ` (status ${result.status})`
    const help =
      UNREACHED.includes(result.hint) && answers.baseUrl === null
        ? helpAtFixedAddress(answers.preset)
        : null
    print(`\n${name} does not answer${status}.\n${help ?? result.hint}`)
    return false
  }
  return true
}

/** @returns the Worker's address; null: it failed, and what is missing is printed */
async function deployed(
  config: unknown,
  secrets: Readonly<Record<string, string>>,
  deps: SetupDeps,
): Promise<string | null> {
  try {
    return await deploy(config, secrets, deps)
  } catch (error) {
    if (!(error instanceof SetupError)) throw error
    deps.terminal.print(`\n${error.message}`)
    return null
  }
}

function showSnippet({ site, offer }: Answers, endpoint: string, { print }: Terminal): void {
  const steps = snippetFor({ generator: site.generator, offer, endpoint })
  print('\n---- To paste into your site ----')
  for (const { place, code } of steps) print(`\n${place}:\n\n${code.trimEnd()}`)
}

function showNextSteps(answers: Answers, endpoint: string, { print }: Terminal): void {
  print('\n---- Next ----\n')
  if (endpoint === LOCAL) print('npm start                      # the Worker, on this machine')
  for (const line of pageCommands(answers, endpoint)) print(line)
  if (endpoint !== LOCAL) {
    print(`Dashboard: ${endpoint}/admin (sign in with the OPERATOR_TOKEN of .dev.vars)`)
    return
  }
  print('npm run setup -- --deploy      # puts it on Cloudflare')
  print(`\nThen replace ${LOCAL} with your Worker's address in the code that you have pasted.`)
}
