// `npm run warm`: asks for a list of completions, or about every page of a sitemap, through the
// operator's door, so that visitors find the answers in the cache.
import { readFile } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Arguments, parseArguments, USAGE } from './warm/arguments.ts'
import { estimate, pageBytes } from './warm/estimate.ts'
import { Gateway } from './warm/gateway.ts'
import { parseList } from './warm/list.ts'
import { pagePrompt, pageTasks } from './warm/pages.ts'
import { bar, forecast, line, skippedLines, summary, tokensOf, unreadLines } from './warm/report.ts'
import { readSitemap, type Skipped } from './warm/sitemap.ts'
import { type Task, warm } from './warm/warming.ts'

const OK = 0
const FAILED = 1
const CANNOT_BEGIN = 2
/** As shells count: 128 and the number of SIGINT. */
const INTERRUPTED = 130

/** What is asked for, and how much text each of it brings into its prompt. */
interface Plan {
  readonly tasks: readonly Task[]
  /** Sitemaps whose pages are missing among the tasks. */
  readonly unread: readonly Skipped[]
  readonly bytesOf: (task: Task) => Promise<number>
}

/** @returns the exit code */
async function main(): Promise<number> {
  try {
    const given = parseArguments(process.argv.slice(2))
    const token = process.env['OPERATOR_TOKEN'] ?? ''
    if (token === '') throw new Error(`Cannot warm without OPERATOR_TOKEN\n\n${USAGE}`)
    const gateway = new Gateway({ url: given.url, token }, fetch)
    await gateway.checkToken()
    const plan = await planOf(given, gateway)
    return await (given.dryRun ? lookOnly : run)(plan, given, gateway, interruption())
  } catch (error) {
    console.error(error instanceof Error ? error.message : error)
    return CANNOT_BEGIN
  }
}

async function planOf({ source, url }: Arguments, gateway: Gateway): Promise<Plan> {
  if (source.kind === 'list') {
    const tasks = parseList(await readFile(source.file))
    const bytesOf = async ({ request }: Task) =>
      Buffer.byteLength(JSON.stringify(request['prompt']) ?? '')
    return { tasks, unread: [], bytesOf }
  }
  const prompt = pagePrompt(await gateway.prompts(), source.prompt)
  const sitemap = await readSitemap(source.sitemap, fetch)
  const { tasks, skipped } = pageTasks(sitemap, prompt, source.variables, new URL(url))
  for (const said of skippedLines([...sitemap.skipped, ...skipped])) console.log(said)
  const { unread } = sitemap
  if (tasks.length === 0) {
    for (const said of unreadLines(unread)) console.log(said)
    throw new Error(`Cannot warm: ${source.sitemap} has no page that may be asked about`)
  }
  return { tasks, unread, bytesOf: ({ name }) => pageBytes(name, prompt.maxChars, fetch) }
}

async function run(
  { tasks, unread }: Plan,
  { concurrency }: Arguments,
  gateway: Gateway,
  signal: AbortSignal,
): Promise<number> {
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
        else console.log(line(outcome, task))
      },
    },
  )
  if (process.stdout.isTTY) console.log()
  console.log(summary(tasks, outcomes))
  for (const said of unreadLines(unread)) console.log(said)
  if (signal.aborted) return INTERRUPTED
  const isWhole = outcomes.every(({ kind }) => kind !== 'failed' && kind !== 'unasked')
  return isWhole && unread.length === 0 ? OK : FAILED
}

async function lookOnly(
  { tasks, unread, bytesOf }: Plan,
  { concurrency }: Arguments,
  gateway: Gateway,
  signal: AbortSignal,
): Promise<number> {
  const found = await estimate(
    tasks,
    { concurrency },
    {
      gateway,
      signal,
      bytesOf,
      onLooked(done) {
        if (!process.stdout.isTTY) return
        draw(bar({ done, all: tasks.length, failed: 0, tokens: 0 }))
      },
    },
  )
  if (process.stdout.isTTY) console.log()
  if (signal.aborted) return INTERRUPTED
  console.log(forecast(found))
  for (const said of unreadLines(unread)) console.log(said)
  return found.failed.length === 0 && unread.length === 0 ? OK : FAILED
}

/** In place of what stands in the line. */
function draw(text: string): void {
  process.stdout.write(`\r\x1b[K${text}`)
}

/** npm hands on the Ctrl-C that the terminal has sent already. */
const ECHO_MS = 500

/** Given at the first Ctrl-C; what is under way is paid for and waited for. The second one ends all. */
function interruption(): AbortSignal {
  const interrupted = new AbortController()
  let firstAt = 0
  process.on('SIGINT', () => {
    if (interrupted.signal.aborted && Date.now() - firstAt < ECHO_MS) return
    if (interrupted.signal.aborted) process.exit(INTERRUPTED)
    firstAt = Date.now()
    interrupted.abort()
    console.error('\nEnding with what is under way; Ctrl-C again to end at once.')
  })
  return interrupted.signal
}

process.exitCode = await main()
