// The four questions: each is answered by a flag, or asked on a terminal until its answer can be used.
import {
  type Arguments,
  type Offer,
  offers,
  type ProviderChoice,
  parseBaseUrl,
  parseOffers,
  parseProvider,
  parseSite,
  SetupError,
} from './arguments.ts'
import { listsModels, needsBaseUrl, needsKey, needsModel, providers } from './providers.ts'
import { KEY_NAME } from './settings.ts'
import { OTHERS_KEY, type StoredKey, type StoredKeyOf } from './stored-key.ts'
import type { Terminal } from './terminal.ts'

/** @throws SetupError listing the flags that are missing, if nobody can be asked */
export function requireFlags(args: Arguments, storedFor: StoredKeyOf): void {
  const { preset, baseUrl } = args
  const stored = preset === null ? null : storedFor({ preset, baseUrl })
  const lacksModel = (preset: string) => needsModel(preset) && !listsModels(preset)
  const needs = {
    '--site': args.site === null,
    '--preset': preset === null,
    '--key-stdin':
      !args.keyStdin && stored?.kind !== 'fits' && (preset === null || needsKey(preset)),
    '--base-url': baseUrl === null && preset !== null && needsBaseUrl(preset),
    '--model': args.model === null && preset !== null && lacksModel(preset),
    '--offer': args.offer === null,
    '--yes': !args.yes,
  }
  const missing = Object.entries(needs).flatMap(([flag, isMissing]) => (isMissing ? [flag] : []))
  if (missing.length === 0) return
  const key =
    needs['--key-stdin'] && stored?.kind === 'of-another'
      ? ` ${OTHERS_KEY} Give the key for ${preset} on standard input: --key-stdin < key.txt.`
      : ''
  throw new SetupError(
    `Cannot ask questions without a terminal. Missing: ${missing.join(', ')}.${key} --help shows an example.`,
  )
}

export const askSite = (terminal: Terminal): Promise<URL> =>
  repeat(terminal, 'The address of your site, such as https://example.com: ', parseSite)

export async function askProvider(terminal: Terminal): Promise<ProviderChoice> {
  const names = Object.keys(providers).filter((name) => !needsBaseUrl(name))
  const width = Math.max(...names.map((name) => name.length))
  terminal.print('\nProviders:')
  for (const [i, name] of names.entries()) {
    const number = String(i + 1).padStart(2)
    terminal.print(`  ${number}  ${name.padEnd(width)}  ${providers[name]?.title}`)
  }
  terminal.print('  or the address of your own OpenAI-compatible server, such as')
  terminal.print('  https://llm.example.com/v1')
  return await repeat(terminal, 'Provider (number, name or address) [1]: ', (text) => {
    const number = Number(text.trim() || '1')
    const choice = parseProvider(names[number - 1] ?? text)
    if (choice.baseUrl !== null || !needsBaseUrl(choice.preset)) return choice
    throw new SetupError(
      `Cannot use ${JSON.stringify(choice.preset)} without an address: write it after the name, as in ${choice.preset} https://llm.example.com/v1`,
    )
  })
}

export const askBaseUrl = (terminal: Terminal): Promise<string> =>
  repeat(terminal, 'The address of its API, such as https://llm.example.com/v1: ', parseBaseUrl)

export async function askKey(
  terminal: Terminal,
  preset: string,
  stored: StoredKey,
): Promise<string> {
  const { keys, title = preset } = providers[preset] ?? {}
  terminal.print(
    `\nThe key stays in .dev.vars, which git ignores.${keys ? ` Get one at ${keys}` : ''}`,
  )
  if (needsBaseUrl(preset)) terminal.print('If the server needs none, type any word.')
  if (stored.kind === 'of-another') terminal.print(OTHERS_KEY)
  const known = stored.kind === 'fits' ? stored.key : ''
  const keep = known === '' ? '' : ` [Enter: the ${KEY_NAME} of .dev.vars]`
  const question = `Key for ${title} (not shown)${keep}: `
  return await repeat(terminal, question, (text) => parseKey(text || known), true)
}

/** @throws SetupError, which does not contain the key */
export function parseKey(text: string): string {
  const key = text.trim()
  if (/^[\x21-\x7e]+$/.test(key)) return key
  throw new SetupError(
    key === ''
      ? 'Cannot use an empty key'
      : 'Cannot use this as a key: expected printable ASCII without spaces or line breaks',
  )
}

export async function askOffer(terminal: Terminal): Promise<readonly Offer[]> {
  terminal.print(`
What do you want to offer?
  summaries  a summary of each page, which only you can generate
  ask        a search box that answers questions from your pages
  free       a chat about anything, and any text that a page of yours sends`)
  const usual = offers.slice(0, 2)
  return await repeat(terminal, `One or more, with commas [${usual.join(', ')}]: `, (text) =>
    text.trim() === '' ? usual : parseOffers(text),
  )
}

/** @param usual the meaning of Enter */
export async function confirm(
  terminal: Terminal,
  question: string,
  usual: 'yes' | 'no',
): Promise<boolean> {
  const choice = usual === 'yes' ? 'Y/n' : 'y/N'
  return await repeat(terminal, `${question} [${choice}]: `, (text) => {
    const word = text.trim().toLowerCase() || usual
    if (['y', 'yes'].includes(word)) return true
    if (['n', 'no'].includes(word)) return false
    throw new SetupError('Expected "y" or "n"')
  })
}

async function repeat<T>(
  terminal: Terminal,
  question: string,
  parse: (text: string) => T,
  hidden = false,
): Promise<T> {
  for (;;) {
    const text = await terminal.ask(question, { hidden })
    try {
      return parse(text)
    } catch (error) {
      if (!(error instanceof SetupError)) throw error
      terminal.print(error.message)
    }
  }
}
