// A look before anything is spent: how much is there already, and about how many tokens the rest
// would take. A guess: only the upstream counts tokens, and only the Worker knows the whole prompt.
import { codeIn, type Fetch, type Gateway, refusalIn } from './gateway.ts'
import { isStale, someAtOnce, type Task, usageIn } from './warming.ts'

export interface Estimate {
  readonly present: number
  readonly missing: number
  /** Of the missing ones' texts, by their bytes. */
  readonly tokensRead: number
  /** As many as the answers that are there took on average; null: none is there. */
  readonly tokensWritten: number | null
  /** What could not even be asked for. */
  readonly failed: readonly { readonly task: Task; readonly reason: string }[]
}

/** As where usage is estimated: a token is four UTF-8 bytes. */
const BYTES_PER_TOKEN = 4

/** @param bytesOf the text that goes into a task's prompt */
export async function estimate(
  tasks: readonly Task[],
  { concurrency }: { readonly concurrency: number },
  {
    gateway,
    signal,
    bytesOf,
    onLooked,
  }: {
    readonly gateway: Gateway
    readonly signal: AbortSignal
    readonly bytesOf: (task: Task) => Promise<number>
    readonly onLooked?: (done: number) => void
  },
): Promise<Estimate> {
  let done = 0
  const found = await someAtOnce(tasks, concurrency, signal, async (task) => {
    const look = await lookFor(task, gateway, bytesOf)
    done += 1
    onLooked?.(done)
    return { task, ...look }
  })
  const present: number[] = []
  const missing: number[] = []
  const failed: { task: Task; reason: string }[] = []
  for (const look of found) {
    if (look === null) continue
    if ('written' in look) present.push(look.written)
    else if ('bytes' in look) missing.push(look.bytes)
    else failed.push(look)
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

/** Tokens of the answer that is there, or bytes of the text about which there is none. */
type Look = { readonly written: number } | { readonly bytes: number } | { readonly reason: string }

async function lookFor(
  task: Task,
  gateway: Gateway,
  bytesOf: (task: Task) => Promise<number>,
): Promise<Look> {
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

/**
 * About how many bytes of a page's text go into the prompt: without tags, scripts and white space, cut
 * at `maxChars`. A page that cannot be read counts as the longest one.
 */
export async function pageBytes(url: string, maxChars: number, fetch: Fetch): Promise<number> {
  try {
    const response = await fetch(new Request(url, { signal: AbortSignal.timeout(PAGE_MS) }))
    const parts: Uint8Array[] = []
    let size = 0
    for await (const part of response.body ?? []) {
      parts.push(part)
      size += part.length
      if (size > MAX_PAGE_BYTES) break
    }
    if (!response.ok) return maxChars
    const text = readable(Buffer.concat(parts).toString('utf8'))
    return Buffer.byteLength(text.slice(0, maxChars))
  } catch {
    return maxChars
  }
}

function readable(html: string): string {
  return html
    .replaceAll(/<(script|style|nav|template|svg)\b[\s\S]*?<\/\1\s*>/gi, ' ')
    .replaceAll(/<[^>]*>/g, ' ')
    .replaceAll(/\s+/g, ' ')
}
