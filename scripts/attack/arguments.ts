// The command line of `npm run attack`.
import { readOptions, readUrl } from '../operator/arguments.ts'

export interface Arguments {
  /** The Worker's address. */
  readonly url: string
  /** The most requests to send. */
  readonly requests: number
  /** Requests that are still running then are cut off. */
  readonly seconds: number
  readonly seed: number
  /** Describe the attack; nothing is sent. */
  readonly dryRun: boolean
  /** Begin without a question. */
  readonly yes: boolean
  /** The owner allows every origin, so none is refused. */
  readonly anyOrigin: boolean
}

export const USAGE = `Usage, with the operator's token in the environment variable OPERATOR_TOKEN or in .dev.vars:
  npm run attack -- --url https://…

Sends your own Worker what others may send it, and checks what it promises. It can spend what is left of
today's budget, and your visitors then only get cached answers until 00:00 UTC. Everything is sent as a visitor;
the operator's token only reads the figures.

  --url         the Worker's address
  --requests    the most requests to send, 1 to 100000; default 300
  --seconds     the longest time to send them, 1 to 3600; default 60
  --seed        a whole number that chooses the requests; default a new one, which is printed
  --dry-run     list the requests and what they could spend; nothing is sent
  --yes         begin without asking
  --any-origin  do not expect that origins are refused: for origins = ["*"]

With Turnstile, set VISITOR_TOKEN to a token of your page (the header X-Visitor-Token in the browser's
network tools): it is replayed. Without one, only refusals are tried.`

const options = {
  url: { type: 'string' },
  requests: { type: 'string', default: '300' },
  seconds: { type: 'string', default: '60' },
  seed: { type: 'string' },
  'dry-run': { type: 'boolean', default: false },
  yes: { type: 'boolean', default: false },
  'any-origin': { type: 'boolean', default: false },
  help: { type: 'boolean', default: false },
} as const

const MAX_SEED = 2 ** 31 - 1

/**
 * @param newSeed the seed of a command line without one
 * @returns null if the user asks for help
 * @throws Error with a message for the user
 */
export function parseArguments(args: readonly string[], newSeed: number): Arguments | null {
  const { values, positionals } = readOptions(args, options, USAGE)
  if (values.help) return null
  const [unused] = positionals
  if (unused !== undefined) throw new Error(`Cannot use ${JSON.stringify(unused)}\n\n${USAGE}`)
  return {
    url: readUrl('--url', values.url, USAGE),
    requests: wholeNumber('--requests', values.requests, 1, 100_000),
    seconds: wholeNumber('--seconds', values.seconds, 1, 3600),
    seed: values.seed === undefined ? newSeed : wholeNumber('--seed', values.seed, 0, MAX_SEED),
    dryRun: values['dry-run'],
    yes: values.yes,
    anyOrigin: values['any-origin'],
  }
}

/** @throws Error */
function wholeNumber(name: string, text: string, least: number, most: number): number {
  const number = /^\d{1,10}$/.test(text) ? Number(text) : Number.NaN
  if (number >= least && number <= most) return number
  throw new Error(
    `Cannot use ${name} ${JSON.stringify(text)}: expected a whole number from ${least} to ${most}`,
  )
}
