// `npm run warm`: requests a list of completions, or one for every page of a sitemap, as the operator,
// so that visitors find the answers in the cache.
import { readFile } from 'node:fs/promises'
import { draw, endDrawing, FAILED, INTERRUPTED, main, OK, print, wait } from './operator/command.ts'
import { estimate, pageBytes } from './operator/estimate.ts'
import type { Gateway } from './operator/gateway.ts'
import { type Task, tokensOf } from './operator/generate.ts'
import { type PageTask, pagePrompt, pageTasks } from './operator/pages.ts'
import { bar, forecast, skippedLines, unreadLines } from './operator/report.ts'
import { readSitemap, type Skipped } from './operator/sitemap.ts'
import { type Arguments, parseArguments, USAGE } from './warm/arguments.ts'
import { parseList } from './warm/list.ts'
import { collectSummaries, openSummaries, writeSummaries } from './warm/out.ts'
import { line, summary } from './warm/report.ts'
import { warm } from './warm/warming.ts'

interface Plan {
  readonly tasks: readonly Task[]
  /** The same tasks if each is a page. */
  readonly pages: readonly PageTask[]
  /** Sitemaps that could not be read, so their pages are missing from the tasks. */
  readonly unread: readonly Skipped[]
  /** The bytes of text that a task adds to its prompt. */
  readonly bytesOf: (task: Task) => Promise<number>
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
  for (const text of skippedLines([...sitemap.skipped, ...skipped])) print(text)
  const { unread } = sitemap
  if (tasks.length === 0) {
    for (const text of unreadLines(unread)) print(text)
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
  // Before anything is spent: the file may be another one, or in a folder that cannot be written.
  const before = out === null ? {} : await openSummaries(out)
  let [failed, tokens] = [0, 0]
  draw(bar({ done: 0, all: tasks.length, failed, tokens }))
  const outcomes = await warm(
    tasks,
    { concurrency },
    {
      gateway,
      signal,
      wait,
      onOutcome(outcome, task, done) {
        if (outcome.kind === 'failed') failed += 1
        tokens += tokensOf(outcome)
        draw(bar({ done, all: tasks.length, failed, tokens }))
        // The summary lists failures.
        if (!process.stdout.isTTY && outcome.kind !== 'failed') print(line(outcome, task))
      },
    },
  )
  endDrawing()
  print(summary(tasks, outcomes))
  for (const text of unreadLines(unread)) print(text)
  if (signal.aborted) return INTERRUPTED
  if (out !== null) {
    const { summaries, missing } = await collectSummaries(pages, outcomes, before, gateway)
    for (const url of missing) print(`missing        ${url}  has no summary`)
    // The pages of an unread sitemap are not known, so they stay.
    const paths = new Set(pages.map(({ name }) => new URL(name).pathname))
    const unknown = Object.entries(before).filter(([path]) => unread.length > 0 && !paths.has(path))
    await writeSummaries(out, { ...Object.fromEntries(unknown), ...summaries })
    print(`${out} has the summaries of ${pages.length - missing.length} pages`)
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
        draw(bar({ done, all: tasks.length, failed: 0, tokens: 0 }))
      },
    },
  )
  endDrawing()
  if (signal.aborted) return INTERRUPTED
  print(forecast(result))
  for (const text of unreadLines(unread)) print(text)
  return result.failed.length === 0 && unread.length === 0 ? OK : FAILED
}

process.exitCode = await main<Arguments>({
  verb: 'warm',
  usage: USAGE,
  parse: parseArguments,
  async run(args, gateway, signal) {
    const plan = await planOf(args, gateway)
    return await (args.dryRun ? dryRun : run)(plan, args, gateway, signal)
  },
})
