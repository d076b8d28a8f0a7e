// The command line of `npm run warm`.
import { parseArgs } from 'node:util'

export interface Arguments {
  /** The Worker's address. */
  readonly url: string
  /** The number of concurrent requests. */
  readonly concurrency: number
  /** Count and estimate only; nothing is spent. */
  readonly dryRun: boolean
  /** The file for the summaries of a sitemap's pages. */
  readonly out: string | null
  readonly source:
    | { readonly kind: 'list'; readonly file: string }
    | {
        readonly kind: 'sitemap'
        readonly sitemap: string
        readonly prompt: string
        /** The variables of the prompt other than the page. */
        readonly variables: Readonly<Record<string, string>>
      }
}

export const USAGE = `Usage, with the operator's token in the environment variable OPERATOR_TOKEN or in .dev.vars:
  npm run warm -- --sitemap https://example.com/sitemap.xml --prompt summary --url https://…
  npm run warm -- prompts.json --url https://…

  --url          the Worker's address
  --sitemap      a sitemap or a sitemap index; each of its pages is warmed
  --prompt       id of the locked prompt with a variable { from = "url", … }
  --variable     name=value of another variable of that prompt; may be repeated
  --out          file to write the pages' summaries to, by path, for the build of your site
  --dry-run      count missing answers and estimate their tokens; nothing is spent
  --concurrency  concurrent requests, 1 to 32; default 4

prompts.json is a list of request bodies, as visitors would send them (prompts or chats), or of strings (free prompts):
  ["Once upon a time", { "prompt": { "id": "haiku", "variables": { "topic": "sea" } } }]`

const DEFAULT_CONCURRENCY = 4
const MAX_CONCURRENCY = 32

const options = {
  url: { type: 'string' },
  sitemap: { type: 'string' },
  prompt: { type: 'string' },
  variable: { type: 'string', multiple: true },
  out: { type: 'string' },
  help: { type: 'boolean', default: false },
  concurrency: { type: 'string', default: String(DEFAULT_CONCURRENCY) },
  'dry-run': { type: 'boolean', default: false },
} as const

/**
 * @returns null if the user asks for help
 * @throws Error with a message for the user
 */
export function parseArguments(args: readonly string[]): Arguments | null {
  const { values, positionals } = parsed(args)
  if (values.help) return null
  const concurrency = Number(values.concurrency)
  if (!Number.isSafeInteger(concurrency) || concurrency < 1 || concurrency > MAX_CONCURRENCY) {
    throw new Error(
      `Cannot use --concurrency ${JSON.stringify(values.concurrency)}: expected a whole number from 1 to ${MAX_CONCURRENCY}`,
    )
  }
  const { out = null, 'dry-run': dryRun } = values
  if (out !== null && (values.sitemap === undefined || dryRun)) {
    throw new Error(`Cannot use --out without --sitemap, or with --dry-run\n\n${USAGE}`)
  }
  const source =
    values.sitemap === undefined
      ? listOf(values, positionals)
      : sitemapOf(values.sitemap, values, positionals)
  return { url: address('--url', values.url), concurrency, dryRun, out, source }
}

function parsed(args: readonly string[]) {
  try {
    return parseArgs({ args: [...args], options, allowPositionals: true })
  } catch (error) {
    throw new Error(`${error instanceof Error ? error.message : error}\n\n${USAGE}`)
  }
}

type Values = ReturnType<typeof parsed>['values']

function listOf({ prompt, variable = [] }: Values, positionals: readonly string[]) {
  const [file, ...others] = positionals
  if (prompt !== undefined || variable.length > 0) {
    throw new Error(`Cannot use --prompt or --variable without --sitemap\n\n${USAGE}`)
  }
  if (file === undefined || others.length > 0) throw new Error(USAGE)
  return { kind: 'list', file } as const
}

function sitemapOf(
  sitemap: string,
  { prompt = '', variable = [] }: Values,
  [file]: readonly string[],
): Arguments['source'] {
  if (file !== undefined) {
    throw new Error(`Cannot use ${JSON.stringify(file)} with --sitemap\n\n${USAGE}`)
  }
  if (prompt === '') {
    throw new Error(`Cannot use --sitemap without --prompt, the id of a locked prompt\n\n${USAGE}`)
  }
  const variables = variable.map((pair): [string, string] => {
    const at = pair.indexOf('=')
    if (at < 1)
      throw new Error(`Cannot use --variable ${JSON.stringify(pair)}: expected name=value`)
    return [pair.slice(0, at), pair.slice(at + 1)]
  })
  return {
    kind: 'sitemap',
    sitemap: address('--sitemap', sitemap),
    prompt,
    variables: Object.fromEntries(variables),
  }
}

function address(name: string, value: string | undefined): string {
  const url = URL.canParse(value ?? '') ? new URL(value ?? '') : null
  if (url !== null && /^https?:$/.test(url.protocol) && url.username === '') return url.href
  // Do not print the value: it may be a misplaced token.
  throw new Error(`Cannot use ${name}: expected an address such as https://…\n\n${USAGE}`)
}
