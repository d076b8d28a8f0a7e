// The command line of `npm run index`.
import { readAddress } from '../../src/page/rules.ts'
import {
  DEFAULT_CONCURRENCY,
  readConcurrency,
  readOptions,
  readUrl,
} from '../operator/arguments.ts'

export interface Arguments {
  /** The Worker's address. */
  readonly url: string
  readonly sitemap: string | null
  /** Pages beside those of the sitemap. */
  readonly pages: readonly URL[]
  /** The id of the locked prompt that writes the questions of a page. */
  readonly questions: string | null
  /** Whether pages that left the sitemap stay in the index. */
  readonly keep: boolean
  /** List what would change only; nothing is changed or spent. */
  readonly dryRun: boolean
  /** The number of concurrent requests. */
  readonly concurrency: number
}

export const USAGE = `Usage, with the operator's token in the environment variable OPERATOR_TOKEN or in .dev.vars:
  npm run index -- --sitemap https://example.com/sitemap.xml --url https://…
  npm run index -- --sitemap https://example.com/sitemap.xml https://example.com/llms-full.txt --url https://…
  npm run index -- https://example.com/changed/page --url https://…

  --url          the Worker's address
  --sitemap      a sitemap or a sitemap index; its pages are indexed, and pages of its origin that left it removed
  --keep         do not remove pages that left the sitemap
  --questions    id of a locked prompt with one variable, { from = "url", … }, that writes the questions a page
                 answers, one per line; they are indexed with the page
  --dry-run      list what would be indexed, read again and removed; nothing is changed or spent
  --concurrency  concurrent requests, 1 to 32; default 4`

const options = {
  url: { type: 'string' },
  sitemap: { type: 'string' },
  questions: { type: 'string' },
  keep: { type: 'boolean', default: false },
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
  const { sitemap, questions = null, keep, 'dry-run': dryRun } = values
  if (sitemap === undefined && positionals.length === 0) {
    throw new Error(`Cannot index without --sitemap or the address of a page\n\n${USAGE}`)
  }
  if (questions === '') throw new Error('Cannot use --questions "": expected the id of a prompt')
  return {
    url: readUrl('--url', values.url, USAGE),
    sitemap: sitemap === undefined ? null : readUrl('--sitemap', sitemap, USAGE),
    pages: positionals.map(pageAddress),
    questions,
    keep,
    dryRun,
    concurrency: readConcurrency(values.concurrency),
  }
}

function pageAddress(text: string): URL {
  const url = readAddress(text)
  // The Worker drops the query, so it would read a different page.
  if (url !== null && url.username === '' && new URL(text).search === '') return url
  throw new Error(
    `Cannot use ${JSON.stringify(text)}: expected the address of a page, such as https://example.com/page`,
  )
}
