// The dry run: counts the answers that are already cached, and estimates the tokens that the missing
// ones would take. It is only an estimate because the tokenizer and the full prompt are not known here.
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { referencesOnce } from '../../src/html/references.ts'
import { parseSelectors } from '../../src/html/selector.ts'
import { parseHtml } from '../../src/html/tree.ts'
import { readableText } from '../../src/page/text.ts'
import { readAtMost } from './body.ts'
import { someAtOnce } from './concurrent.ts'
import { codeIn, type Fetch, type Gateway, refusalIn } from './gateway.ts'
import { isStale, type Task, usageIn } from './generate.ts'

export interface Estimate {
  readonly present: number
  readonly missing: number
  /** Input tokens of the missing answers, from the bytes of their texts. */
  readonly tokensRead: number
  /** Output tokens of the missing answers, from the average cached answer; null without any. */
  readonly tokensWritten: number | null
  /** Tasks whose requests were refused or failed. */
  readonly failed: readonly { readonly task: Task; readonly reason: string }[]
}

/** The same ratio that the Worker uses to estimate usage. */
const BYTES_PER_TOKEN = 4

/** @param bytesOf the bytes of text that a task adds to its prompt */
export async function estimate(
  tasks: readonly Task[],
  { concurrency }: { readonly concurrency: number },
  {
    gateway,
    signal,
    bytesOf,
    onProgress,
  }: {
    readonly gateway: Gateway
    readonly signal: AbortSignal
    readonly bytesOf: (task: Task) => Promise<number>
    readonly onProgress?: (done: number) => void
  },
): Promise<Estimate> {
  let done = 0
  const results = await someAtOnce(tasks, concurrency, signal, async (task) => {
    const lookup = await lookUp(task, gateway, bytesOf)
    done += 1
    onProgress?.(done)
    return { task, ...lookup }
  })
  const present: number[] = []
  const missing: number[] = []
  const failed: { task: Task; reason: string }[] = []
  for (const result of results) {
    if (result === null) continue
    if ('written' in result) present.push(result.written)
    else if ('bytes' in result) missing.push(result.bytes)
    else failed.push(result)
  }
  return {
    present: present.length,
    missing: missing.length,
    tokensRead: Math.ceil(sum(missing) / BYTES_PER_TOKEN),
    tokensWritten:
      present.length === 0 ? null : Math.ceil((sum(present) / present.length) * missing.length),
    failed,
  }
}

const sum = (numbers: readonly number[]) => numbers.reduce((all, each) => all + each, 0)

/** The output tokens of a cached answer, the bytes of text of a missing one, or why it failed. */
type Lookup =
  | { readonly written: number }
  | { readonly bytes: number }
  | { readonly reason: string }

async function lookUp(
  task: Task,
  gateway: Gateway,
  bytesOf: (task: Task) => Promise<number>,
): Promise<Lookup> {
  try {
    const answer = await gateway.complete(task.request, 'only-if-cached')
    const { status, text } = answer
    if (status === 200 && !isStale(answer)) return { written: usageIn(text)?.written ?? 0 }
    if (status === 200 || codeIn(text) === 'not_cached') return { bytes: await bytesOf(task) }
    return { reason: refusalIn(status, text) }
  } catch {
    return { reason: 'no connection' }
  }
}

const MAX_PAGE_BYTES = 2_097_152
const PAGE_MS = 15_000
/** The default of `selector`: `GET /v1/prompts` does not list the prompt's own. */
const selectors = parseSelectors('main, article, body') ?? []
const references = referencesOnce(() =>
  readFile(join(import.meta.dirname, '../../src/html/references.txt'), 'utf8'),
)

/**
 * Estimates how many bytes of a page's text go into the prompt: as the Worker reads it, cut at
 * `maxChars`. A page that cannot be read counts as `maxChars`.
 */
export async function pageBytes(url: string, maxChars: number, fetch: Fetch): Promise<number> {
  try {
    const response = await fetch(new Request(url, { signal: AbortSignal.timeout(PAGE_MS) }))
    const { bytes } = await readAtMost(response, MAX_PAGE_BYTES)
    if (!response.ok) return maxChars
    const text = readableText(parseHtml(bytes.toString('utf8'), await references()), selectors)
    return Buffer.byteLength(text.slice(0, maxChars))
  } catch {
    return maxChars
  }
}
