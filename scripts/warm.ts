// `npm run warm`: requests a list of completions, or one for every page of a sitemap, as the operator,
// so that visitors find the answers in the cache.
import { readFile } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { secretsIn } from './setup/dev-vars.ts'
import { type Arguments, parseArguments, USAGE } from './warm/arguments.ts'
import { estimate, pageBytes } from './warm/estimate.ts'
import { Gateway } from './warm/gateway.ts'
import { parseList } from './warm/list.ts'
import { collectSummaries, readSummaries, writeSummaries } from './warm/out.ts'
import { type PageTask, pagePrompt, pageTasks } from './warm/pages.ts'
import { bar, forecast, line, skippedLines, summary, tokensOf, unreadLines } from './warm/report.ts'
import { readSitemap, type Skipped } from './warm/sitemap.ts'
import { type Task, warm } from './warm/warming.ts'

const OK = 0
const FAILED = 1
const NOT_STARTED = 2
/** The convention of shells: 128 plus the number of SIGINT. */
const INTERRUPTED = 130

interface Plan {
  readonly tasks: readonly Task[]
  /** The same tasks if each is a page. */
  readonly pages: readonly PageTask[]
  /** Sitemaps that could not be read, so their pages are missing from the tasks. */
  readonly unread: readonly Skipped[]
  /** The bytes of text that a task adds to its prompt. */
  readonly bytesOf: (task: Task) => Promise<number>
}

/** @returns the exit code */
async function main(): Promise<number> {
  try {
    const args = parseArguments(process.argv.slice(2))
    if (args === null) {
      console.log(USAGE)
      return OK
    }
    const token = process.env['OPERATOR_TOKEN'] || (await localToken())
    if (token === '') throw new Error(`Cannot warm without OPERATOR_TOKEN\n\n${USAGE}`)
    const gateway = new Gateway({ url: args.url, token }, fetch)
    await gateway.checkToken()
    const plan = await planOf(args, gateway)
    return await (args.dryRun ? dryRun : run)(plan, args, gateway, interruption())
  } catch (error) {
    console.error(error instanceof Error ? error.message : error)
    return NOT_STARTED
  }
}

/** The token that `npm run setup` writes; "" without one. */
async function localToken(): Promise<string> {
  const file = await readFile('.dev.vars', 'utf8').catch(() => '')
  return secretsIn(file)['OPERATOR_TOKEN'] ?? ''
}

async function planOf({ source, url }: Arguments, gateway: Gateway): Promise<Plan> {
  if (source.kind === 'list') {
    const tasks = parseList(await readFile(source.file))
    const bytesOf = async ({ request }: Task) =>
      Buffer.byteLength(JSON.stringify(request['prompt'] ?? request['messages']) ?? '')
    return { tasks, pages: [], unread: [], bytesOf }
  }
  const prompt = pagePrompt(await gateway.prompts(), source.prompt)
  const sitemap = await readSitemap(source.sitemap, fetch)
  const { tasks, skipped } = pageTasks(sitemap, prompt, source.variables, new URL(url))
  for (const text of skippedLines([...sitemap.skipped, ...skipped])) console.log(text)
  const { unread } = sitemap
  if (tasks.length === 0) {
    for (const text of unreadLines(unread)) console.log(text)
    throw new Error(`Cannot warm: ${source.sitemap} has no page that this prompt may use`)
  }
  return {
    tasks,
    pages: tasks,
    unread,
    bytesOf: ({ name }) => pageBytes(name, prompt.maxChars, fetch),
  }
}

async function run(
  { tasks, pages, unread }: Plan,
  { concurrency, out }: Arguments,
  gateway: Gateway,
  signal: AbortSignal,
): Promise<number> {
  // Before anything is spent: the file may be another one.
  const before = out === null ? {} : await readSummaries(out)
  let [failed, tokens] = [0, 0]
  if (process.stdout.isTTY) draw(bar({ done: 0, all: tasks.length, failed, tokens }))
  const outcomes = await warm(
    tasks,
    { concurrency },
    {
      gateway,
      signal,
      wait: (ms, over) => sleep(ms, undefined, { signal: over }).catch(() => {}),
      onOutcome(outcome, task, done) {
        if (outcome.kind === 'failed') failed += 1
        tokens += tokensOf(outcome)
        if (process.stdout.isTTY) draw(bar({ done, all: tasks.length, failed, tokens }))
        // The summary lists failures.
        else if (outcome.kind !== 'failed') console.log(line(outcome, task))
      },
    },
  )
  if (process.stdout.isTTY) console.log()
  console.log(summary(tasks, outcomes))
  for (const text of unreadLines(unread)) console.log(text)
  if (signal.aborted) return INTERRUPTED
  if (out !== null) {
    const { summaries, missing } = await collectSummaries(pages, outcomes, before, gateway)
    for (const url of missing) console.log(`missing        ${url}  has no summary`)
    // The pages of an unread sitemap are not known, so they stay.
    const paths = new Set(pages.map(({ name }) => new URL(name).pathname))
    const unknown = Object.entries(before).filter(([path]) => unread.length > 0 && !paths.has(path))
    await writeSummaries(out, { ...Object.fromEntries(unknown), ...summaries })
    console.log(`${out} has the summaries of ${pages.length - missing.length} pages`)
  }
  const isComplete = outcomes.every(({ kind }) => kind !== 'failed' && kind !== 'not-started')
  return isComplete && unread.length === 0 ? OK : FAILED
}

async function dryRun(
  { tasks, unread, bytesOf }: Plan,
  { concurrency }: Arguments,
  gateway: Gateway,
  signal: AbortSignal,
): Promise<number> {
  const result = await estimate(
    tasks,
    { concurrency },
    {
      gateway,
      signal,
      bytesOf,
      onProgress(done) {
        if (!process.stdout.isTTY) return
        draw(bar({ done, all: tasks.length, failed: 0, tokens: 0 }))
      },
    },
  )
  if (process.stdout.isTTY) console.log()
  if (signal.aborted) return INTERRUPTED
  console.log(forecast(result))
  for (const text of unreadLines(unread)) console.log(text)
  return result.failed.length === 0 && unread.length === 0 ? OK : FAILED
}

/** Replaces the current line of the terminal. */
function draw(text: string): void {
  process.stdout.write(`\r\x1b[K${text}`)
}

/** After Ctrl-C, npm repeats the SIGINT that the terminal has already sent. */
const ECHO_MS = 500

/** Aborts at the first Ctrl-C: running requests are paid for, so they may finish. The second exits. */
function interruption(): AbortSignal {
  const interrupted = new AbortController()
  let firstAt = 0
  process.on('SIGINT', () => {
    if (interrupted.signal.aborted && Date.now() - firstAt < ECHO_MS) return
    if (interrupted.signal.aborted) process.exit(INTERRUPTED)
    firstAt = Date.now()
    interrupted.abort()
    console.error('\nWaiting for running requests to finish. Press Ctrl-C again to quit now.')
  })
  return interrupted.signal
}

process.exitCode = await main()
