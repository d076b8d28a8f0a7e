// The command line of `npm run warm`.
import {
  DEFAULT_CONCURRENCY,
  readConcurrency,
  readOptions,
  readUrl,
} from '../operator/arguments.ts'

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
  const { values, positionals } = readOptions(args, options, USAGE)
  if (values.help) return null
  const concurrency = readConcurrency(values.concurrency)
  const { out = null, 'dry-run': dryRun } = values
  if (out !== null && (values.sitemap === undefined || dryRun)) {
    throw new Error(`Cannot use --out without --sitemap, or with --dry-run\n\n${USAGE}`)
  }
  const source =
    values.sitemap === undefined
      ? listOf(values, positionals)
      : sitemapOf(values.sitemap, values, positionals)
  return { url: readUrl('--url', values.url, USAGE), concurrency, dryRun, out, source }
}

type Values = ReturnType<typeof readOptions<typeof options>>['values']

function listOf({ prompt, variable = [] }: Values, positionals: readonly string[]) {
  const [file, ...others] = positionals
  if (prompt !== undefined || variable.length > 0) {
    throw new Error(`Cannot use --prompt or --variable without --sitemap\n\n${USAGE}`)
  }
  if (file === undefined || others.length > 0) {
    throw new Error(`Cannot warm: expected one list or --sitemap\n\n${USAGE}`)
  }
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
    sitemap: readUrl('--sitemap', sitemap, USAGE),
    prompt,
    variables: Object.fromEntries(variables),
  }
}
