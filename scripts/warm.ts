// `npm run warm -- prompts.json --url URL`: asks for a list of completions through the operator's
// door (OPERATOR_TOKEN in the environment), so that visitors find them in the cache. What is there
// already is skipped, which is also how a run that broke off is taken up again: it has no state.
import { readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'

/** A request body; a string in the file is a free prompt. */
export type WarmRequest = Readonly<Record<string, unknown>>

export type Outcome =
  | { readonly kind: 'stored' | 'present' }
  | { readonly kind: 'failed'; readonly reason: string }

export interface WarmOptions {
  readonly url: string
  readonly token: string
  /** Requests at once. */
  readonly concurrency: number
}

export interface WarmContext {
  readonly fetch: (request: Request) => Promise<Response>
  readonly wait: (ms: number) => Promise<void>
  /** Called after each request, in the order in which they end. */
  readonly onOutcome?: (outcome: Outcome, index: number, done: number) => void
}

export interface Arguments {
  readonly file: string
  readonly url: string
  readonly concurrency: number
}

const USAGE = `Usage: OPERATOR_TOKEN=… npm run warm -- prompts.json --url https://… [--concurrency 4]

prompts.json is a list of request bodies, as visitors would send them, or of strings (free prompts):
  ["Once upon a time", { "prompt": { "id": "haiku", "variables": { "topic": "sea" } } }]`

const DEFAULT_CONCURRENCY = 4
const MAX_CONCURRENCY = 32
/** Tries of one request; between them as long as the gateway says, within bounds. */
const MAX_TRIES = 4
const MIN_WAIT_MS = 1000
const MAX_WAIT_MS = 60_000
/** Failures that another moment may mend. */
const MENDING: ReadonlySet<number> = new Set([429, 502, 503, 504])
/** Not within a minute: the day's budget. */
const HOPELESS: ReadonlySet<string> = new Set(['budget_exhausted', 'misconfigured'])

/** @throws Error that says what is wrong and how it should be */
export function parseArguments(given: readonly string[]): Arguments {
  const rest = [...given]
  const take = (name: string): string | null => {
    const at = rest.findIndex((argument) => argument === name || argument.startsWith(`${name}=`))
    if (at === -1) return null
    const [found = ''] = rest.splice(at, 1)
    if (found !== name) return found.slice(name.length + 1)
    const [value = ''] = rest.splice(at, 1)
    return value
  }
  const url = take('--url')
  const wanted = take('--concurrency')
  const concurrency = wanted === null ? DEFAULT_CONCURRENCY : Number(wanted)
  const [file, ...others] = rest
  if (file === undefined || others.length > 0 || file.startsWith('-')) throw new Error(USAGE)
  if (url === null || !/^https?:$/.test(protocolOf(url))) {
    throw new Error(
      `Cannot use --url ${JSON.stringify(url)}: expected the Worker's address\n\n${USAGE}`,
    )
  }
  if (!Number.isSafeInteger(concurrency) || concurrency < 1 || concurrency > MAX_CONCURRENCY) {
    throw new Error(
      `Cannot use --concurrency: expected a whole number from 1 to ${MAX_CONCURRENCY}`,
    )
  }
  return { file, url, concurrency }
}

function protocolOf(url: string): string {
  return URL.canParse(url) ? new URL(url).protocol : ''
}

/** @throws Error when the file's text is no list of requests */
export function parseRequests(text: string): WarmRequest[] {
  let list: unknown
  try {
    list = JSON.parse(text)
  } catch {
    throw new Error('Cannot read the list: it is no JSON')
  }
  if (!Array.isArray(list)) throw new Error('Cannot read the list: expected a JSON array')
  return list.map((item: unknown, i) => {
    if (typeof item === 'string') return { prompt: item }
    if (typeof item === 'object' && item !== null && !Array.isArray(item)) return { ...item }
    throw new Error(`Cannot use item ${i}: expected a request body or a string`)
  })
}

/** Asks for all of them; what one fails with is its outcome, and the others go on. */
export async function warm(
  requests: readonly WarmRequest[],
  options: WarmOptions,
  context: WarmContext,
): Promise<Outcome[]> {
  const outcomes: Outcome[] = []
  let next = 0
  let done = 0
  const work = async () => {
    while (next < requests.length) {
      const index = next++
      const outcome = await warmOne(requests[index] ?? {}, options, context)
      outcomes[index] = outcome
      done += 1
      context.onOutcome?.(outcome, index, done)
    }
  }
  await Promise.all(Array.from({ length: options.concurrency }, work))
  return outcomes
}

async function warmOne(
  request: WarmRequest,
  { url, token }: WarmOptions,
  { fetch, wait }: WarmContext,
): Promise<Outcome> {
  // The answer is the same in every shape, and JSON says whether it was stored.
  const { stream: _, stream_options: __, ...body } = request
  const ask = async (cacheControl: string | null) => {
    const headers = new Headers({
      authorization: `Bearer ${token}`,
      'content-type': 'application/json',
    })
    if (cacheControl !== null) headers.set('cache-control', cacheControl)
    const sent = new Request(new URL('/v1/completions', url), {
      method: 'POST',
      headers,
      body: JSON.stringify(body),
      redirect: 'manual',
    })
    const response = await fetch(sent)
    return { response, text: await response.text() }
  }
  for (let tries = 1; ; tries++) {
    let failure: { readonly reason: string; readonly waitMs: number | null }
    try {
      const looked = await ask('only-if-cached')
      if (looked.response.status === 200 && !isStale(looked.response)) return { kind: 'present' }
      const { response, text } =
        looked.response.status === 200 || codeIn(looked.text) === 'not_cached'
          ? // What is stale would be served as it is; the operator wants the new one.
            await ask(looked.response.status === 200 ? 'no-cache' : null)
          : looked
      if (response.status === 200) return outcomeOf(response)
      failure = failureOf(response, text)
    } catch {
      failure = { reason: 'no connection', waitMs: MIN_WAIT_MS * tries }
    }
    if (failure.waitMs === null || tries === MAX_TRIES) {
      return { kind: 'failed', reason: failure.reason }
    }
    await wait(failure.waitMs)
  }
}

/** An answer that is served and not kept is none for visitors. */
function outcomeOf(response: Response): Outcome {
  const status = response.headers.get('cache-status') ?? ''
  if (/; hit\b/.test(status)) return { kind: 'present' }
  // A refresh by the operator says only that it was forwarded; it replaces what was there.
  if (/; stored\b/.test(status) || /fwd=request/.test(status)) return { kind: 'stored' }
  return { kind: 'failed', reason: `answered, but not stored (${status || 'no Cache-Status'})` }
}

function isStale(response: Response): boolean {
  return /detail=stale/.test(response.headers.get('cache-status') ?? '')
}

function failureOf(response: Response, text: string) {
  const code = codeIn(text)
  const reason = `${response.status} ${code ?? 'not an answer of this gateway'}`
  const mends = MENDING.has(response.status) && !HOPELESS.has(code ?? '')
  return { reason, waitMs: mends ? waitOf(response.headers.get('retry-after')) : null }
}

function waitOf(retryAfter: string | null): number {
  const seconds = /^\d{1,9}$/.test(retryAfter ?? '') ? Number(retryAfter) : 0
  return Math.min(MAX_WAIT_MS, Math.max(MIN_WAIT_MS, seconds * 1000))
}

function codeIn(text: string): string | null {
  try {
    const { error } = JSON.parse(text) as { error?: { code?: unknown } }
    return typeof error?.code === 'string' ? error.code : null
  } catch {
    return null
  }
}

/** The table at the end; failures with the reason and the place in the list. */
export function summary(requests: readonly WarmRequest[], outcomes: readonly Outcome[]): string {
  const count = (kind: Outcome['kind']) =>
    outcomes.filter((outcome) => outcome.kind === kind).length
  const rows: [string, number][] = [
    ['stored', count('stored')],
    ['already there', count('present')],
    ['failed', count('failed')],
  ]
  const lines = rows.map(([name, n]) => `${name.padEnd(14)}${String(n).padStart(6)}`)
  for (const [i, outcome] of outcomes.entries()) {
    if (outcome.kind === 'failed') lines.push(`  ${line(i, requests[i] ?? {}, outcome)}`)
  }
  return lines.join('\n')
}

/** One request in a few words: its place, what became of it, the beginning of its prompt. */
export function line(index: number, request: WarmRequest, outcome: Outcome): string {
  const what = { stored: 'stored', present: 'already there', failed: 'failed' }[outcome.kind]
  const why = outcome.kind === 'failed' ? `: ${outcome.reason}` : ''
  const prompt = JSON.stringify(request['prompt']) ?? 'no prompt'
  const short = prompt.length > 60 ? `${prompt.slice(0, 59)}…` : prompt
  return `#${index} ${what}${why} ${short}`
}

/** A bar for a terminal's one line. */
export function bar(done: number, all: number, failed: number, width = 30): string {
  const filled = all === 0 ? width : Math.round((done / all) * width)
  const drawn = '█'.repeat(filled) + '░'.repeat(width - filled)
  return `${drawn} ${done}/${all}${failed === 0 ? '' : `, ${failed} failed`}`
}

/** @returns the exit code */
async function main(): Promise<number> {
  try {
    const { file, url, concurrency } = parseArguments(process.argv.slice(2))
    const token = process.env['OPERATOR_TOKEN'] ?? ''
    if (token === '') throw new Error(`Cannot warm without OPERATOR_TOKEN\n\n${USAGE}`)
    const requests = parseRequests(await readFile(file, 'utf8'))
    let failed = 0
    const outcomes = await warm(
      requests,
      { url, token, concurrency },
      {
        fetch,
        wait: (ms) => new Promise((resolve) => setTimeout(resolve, ms)),
        onOutcome(outcome, index, done) {
          if (outcome.kind === 'failed') failed += 1
          if (process.stdout.isTTY) process.stdout.write(`\r${bar(done, requests.length, failed)}`)
          else console.log(line(index, requests[index] ?? {}, outcome))
        },
      },
    )
    if (process.stdout.isTTY) process.stdout.write('\n')
    console.log(summary(requests, outcomes))
    return failed === 0 ? 0 : 1
  } catch (error) {
    console.error(error instanceof Error ? error.message : error)
    return 2
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) process.exitCode = await main()
