// The course of `npm run setup`: questions, a look at the site, the two files, one real call, and the
// snippet to paste.
import type { Fetch } from '../operator/gateway.ts'
import { shellCommand } from '../operator/shell.ts'
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
  planSecrets,
  planSettings,
  readDevVars,
  readSettings,
  write,
} from './files.ts'
import { nameOf } from './generators.ts'
import { tryModel } from './live-check.ts'
import { findModel } from './model-choice.ts'
import { needsBaseUrl, needsKey, needsModel } from './providers.ts'
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
/** The files are written, but something after that failed. */
const FAILED = 1
const NOT_STARTED = 2
/** The convention of shells: 128 plus the number of SIGINT. */
const INTERRUPTED = 130

/** Shorter tokens could be guessed (src/config/warnings.ts). */
const MIN_TOKEN_CHARS = 32
const LOCAL = 'http://localhost:8787'

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
  const isStrong = (known['OPERATOR_TOKEN'] ?? '').length >= MIN_TOKEN_CHARS
  const secrets = {
    ...(key === null ? {} : { [KEY_NAME]: key }),
    ...(isStrong ? {} : { OPERATOR_TOKEN: deps.newToken() }),
  }
  const written = await writeAll(
    [change, planSecrets(vars, withSecrets(vars, secrets))],
    args,
    deps,
  )
  if (!written) return OK
  terminal.print(`\nBudget: ${budgetOf(answers)}.`)
  const answered =
    !args.check || (await check(answers, config, { ...known, ...secrets }, fetch, terminal))
  if (!answered) return FAILED
  const endpoint = args.deploy ? await deployed(config, { ...known, ...secrets }, deps) : LOCAL
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
  const choice = await providerOf(args, terminal)
  const { preset, baseUrl } = choice
  const key = needsKey(preset) ? await keyOf(args, preset, stored(choice), terminal) : null
  const looksUp = args.model === null && needsModel(preset)
  const model = looksUp ? await findModel({ ...choice, key }, { terminal, fetch }) : args.model
  const offer = args.offer ?? (await askOffer(terminal))
  return { answers: { site, preset, model, baseUrl, offer }, key }
}

async function providerOf(args: Arguments, terminal: Terminal): Promise<ProviderChoice> {
  const { preset, baseUrl } = args
  if (preset === null) {
    const choice = await askProvider(terminal, baseUrl !== null)
    return { ...choice, baseUrl: choice.baseUrl ?? baseUrl }
  }
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

function siteLines({ url, problem, generator, sitemap, origins }: Site): string[] {
  if (problem !== null) {
    return [`${url.origin} could not be read (${problem}), so what follows fits any site.`]
  }
  const moved = origins.length > 1 ? [`It redirects to ${origins[1]}.`] : []
  return [...moved, `Generator: ${nameOf(generator)}. Sitemap: ${sitemap ?? 'not found'}.`]
}

/** Shows the changes, asks, and writes. @returns false if the answer was no */
async function writeAll(
  changes: readonly Change[],
  args: Arguments,
  { terminal, folder }: SetupDeps,
): Promise<boolean> {
  const real = changes.filter(({ before, after }) => before !== after)
  for (const { name, diff } of real) terminal.print(`\n${name}:\n${diff}`)
  if (real.length === 0)
    terminal.print('\nwrangler.toml and .dev.vars already have these settings.')
  else terminal.print('')
  if (real.length > 0 && !args.yes && !(await confirm(terminal, 'Write this?'))) {
    terminal.print('Nothing is written.')
    return false
  }
  for (const change of real) {
    const copy = await write(folder, change)
    terminal.print(`Written: ${change.name}${copy === null ? '' : `; as it was: ${copy}`}`)
  }
  return true
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
    print(`\nThe settings are written, but ${name} does not answer${status}.\n${result.hint}`)
    print('Then run npm run setup again. (--no-check leaves out this call.)')
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

function showNextSteps({ site, offer }: Answers, endpoint: string, { print }: Terminal): void {
  print('\n---- Next ----\n')
  if (endpoint === LOCAL) print('npm start                      # the Worker, on this machine')
  const sitemap = ['--sitemap', site.sitemap ?? `${site.url.origin}/sitemap.xml`]
  const npmRun = (name: string, ...flags: readonly string[]) =>
    print(shellCommand('npm', 'run', name, '--', ...flags, '--url', endpoint))
  if (offer.includes('ask')) npmRun('index', ...sitemap)
  if (offer.includes('summaries')) npmRun('warm', ...sitemap, '--prompt', 'summary')
  if (endpoint !== LOCAL) {
    print(`Dashboard: ${endpoint}/admin (sign in with the OPERATOR_TOKEN of .dev.vars)`)
    return
  }
  print('npm run setup -- --deploy      # puts it on Cloudflare')
  print(`\nThen write your Worker's address for ${LOCAL} where you have pasted it.`)
}
