// `npm run index`: has the Worker read the pages of a sitemap into the index of the site, as the
// operator, and removes those that left the sitemap.

import { canonicalAddressOf } from '../src/page/rules.ts'
import { type Arguments, parseArguments, USAGE } from './index/arguments.ts'
import {
  type IndexContext,
  indexPages,
  pagesToStay,
  type Questions,
  removePages,
} from './index/indexing.ts'
import { type Plan, pagesToRemove, planOf } from './index/plan.ts'
import { questionsPrompt } from './index/questions.ts'
import { isComplete, line, outsideLines, planLines, removalLine, summary } from './index/report.ts'
import { type IndexedPage, listIndexed } from './index/site.ts'
import { draw, endDrawing, FAILED, INTERRUPTED, main, OK, print, wait } from './operator/command.ts'
import { estimate, pageBytes } from './operator/estimate.ts'
import type { Gateway } from './operator/gateway.ts'
import { pageTask, promptRefusalOf } from './operator/pages.ts'
import { bar, forecast, skippedLines, unreadLines } from './operator/report.ts'

interface Work {
  readonly plan: Plan
  /** The pages that the Worker has before the run, by name. */
  readonly indexed: ReadonlyMap<string, IndexedPage>
  readonly questions: Questions | null
  readonly context: IndexContext
}

process.exitCode = await main<Arguments>({
  verb: 'index',
  usage: USAGE,
  parse: parseArguments,
  async run(args, gateway, signal) {
    const questions = args.questions === null ? null : await questionsOf(args, gateway)
    const plan = await planOf(args, fetch)
    for (const text of skippedLines(plan.skipped)) print(text)
    if (plan.pages.length === 0) {
      for (const text of unreadLines(plan.unread)) print(text)
      throw new Error(`Cannot index: ${args.sitemap} has no page of its own origin`)
    }
    for (const text of outsideLines(plan.pages, questions)) print(text)
    // Before the first change: another run may add pages meanwhile, which must stay.
    const indexed = await listIndexed(gateway)
    const context = { gateway, concurrency: args.concurrency, wait, signal }
    return await (args.dryRun ? dryRun : run)({ plan, indexed, questions, context })
  },
})

async function questionsOf({ questions, url }: Arguments, gateway: Gateway): Promise<Questions> {
  const prompt = questionsPrompt(await gateway.prompts(), questions ?? '')
  return { prompt, isFor: (page) => promptRefusalOf(page, prompt, new URL(url)) === null }
}

async function run({ plan, indexed, questions, context }: Work): Promise<number> {
  const startedAt = performance.now()
  const all = plan.pages.length
  let [done, failed, tokens] = [0, 0, 0]
  draw(bar({ done, all, failed, tokens }))
  const results = await indexPages(plan.pages, questions, context, (result) => {
    done += 1
    if (result.page.kind === 'failed') failed += 1
    if (result.questions && 'tokens' in result.questions) tokens += result.questions.tokens
    draw(bar({ done, all, failed, tokens }))
    printRow(line(result))
  })
  endDrawing()
  const stay = pagesToStay(results)
  const removed = stay === null ? [] : pagesToRemove(plan, indexed, stay)
  const removals = await removePages(removed, context, (result) => printRow(removalLine(result)))
  const seconds = (performance.now() - startedAt) / 1000
  const outcome = { results, removals, hasQuestions: questions !== null, seconds }
  printKept(plan)
  print(summary(outcome))
  if (context.signal.aborted) return INTERRUPTED
  return isComplete(outcome) && plan.unread.length === 0 ? OK : FAILED
}

async function dryRun({ plan, indexed, questions, context }: Work): Promise<number> {
  const pages = plan.pages.map((url) => ({
    url: url.href,
    isIndexed: indexed.has(canonicalAddressOf(url)),
  }))
  const lines = planLines(pages, pagesToRemove(plan, indexed, plan.pages))
  for (const text of lines) print(text)
  printKept(plan)
  const failed = questions === null ? 0 : await estimateQuestions(plan.pages, questions, context)
  if (context.signal.aborted) return INTERRUPTED
  print('Nothing was changed.')
  return failed === 0 && plan.unread.length === 0 ? OK : FAILED
}

/** Prints an estimate. Cached answers cost nothing. @returns how many pages failed */
async function estimateQuestions(
  pages: readonly URL[],
  { prompt, isFor }: Questions,
  { gateway, signal, concurrency }: IndexContext,
): Promise<number> {
  const tasks = pages.filter(isFor).map((url) => pageTask(url, prompt))
  const all = tasks.length
  const result = await estimate(
    tasks,
    { concurrency },
    {
      gateway,
      signal,
      bytesOf: ({ name }) => pageBytes(name, prompt.maxChars, fetch),
      onProgress: (done) => draw(bar({ done, all, failed: 0, tokens: 0 })),
    },
  )
  endDrawing()
  if (!signal.aborted)
    print(`Answers with questions, at most one for each page:\n${forecast(result)}`)
  return result.failed.length
}

/** Prints the sitemaps that could not be read, and why nothing was removed. */
function printKept({ unread, keepsBecause }: Plan): void {
  for (const text of unreadLines(unread)) print(text)
  if (keepsBecause !== null) print(`Pages that left the sitemap are not removed: ${keepsBecause}`)
}

/** Prints a line where there is no bar. */
function printRow(text: string | null): void {
  if (text !== null && !process.stdout.isTTY) print(text)
}
