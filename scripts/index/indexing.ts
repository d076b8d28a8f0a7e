// Has the Worker index pages concurrently, and have their questions written. It keeps no state of its
// own: the Worker recognises unchanged pages, so running it again resumes an interrupted run.
import { FATAL, type RetryContext, someAtOnce } from '../operator/concurrent.ts'
import type { Gateway } from '../operator/gateway.ts'
import type { PagePrompt } from '../operator/pages.ts'
import { type QuestionsOutcome, writeQuestions } from './questions.ts'
import { type PutOutcome, putPage, type RemoveOutcome, removePage } from './site.ts'

/** What became of a page. */
export interface PageResult {
  readonly url: string
  /** `not-started`: the run ended before this page began. */
  readonly page: PutOutcome | { readonly kind: 'not-started' }
  /** Null if none were to be written. */
  readonly questions: QuestionsOutcome | null
}

export interface IndexContext {
  readonly gateway: Gateway
  readonly concurrency: number
  /** Resolves early if the signal is aborted. */
  readonly wait: RetryContext['wait']
  /** When aborted, running requests finish and no more are started. */
  readonly signal: AbortSignal
}

export interface Questions {
  readonly prompt: PagePrompt
  /** Whether the prompt may use the page. */
  readonly isFor: (url: URL) => boolean
}

/** Indexes all pages. A failure is the result of its page and does not stop the others. */
export async function indexPages(
  pages: readonly URL[],
  questions: Questions | null,
  context: IndexContext,
  onResult: (result: PageResult) => void,
): Promise<PageResult[]> {
  const run = new Run(questions, context)
  const results = await someAtOnce(pages, context.concurrency, run.stop, async (url) => {
    const result = await run.index(url)
    onResult(result)
    return result
  })
  return results.map(
    (result, i) =>
      result ?? { url: pages[i]?.href ?? '', page: { kind: 'not-started' }, questions: null },
  )
}

class Run {
  readonly #questions: Questions | null
  readonly #context: IndexContext
  readonly #fatal = new AbortController()
  /** Aborted when no page can be indexed any more. */
  readonly stop: AbortSignal
  readonly #unpaid = new AbortController()
  /** Aborted when no questions can be written any more. */
  readonly #stopQuestions: AbortSignal

  constructor(questions: Questions | null, context: IndexContext) {
    this.#questions = questions
    this.#context = context
    this.stop = AbortSignal.any([context.signal, this.#fatal.signal])
    this.#stopQuestions = AbortSignal.any([this.stop, this.#unpaid.signal])
  }

  async index(url: URL): Promise<PageResult> {
    const { gateway, wait } = this.#context
    const page = await putPage({ url: url.href }, gateway, { wait, stop: this.stop })
    if (page.kind === 'failed' && FATAL.has(page.code)) this.#fatal.abort()
    return { url: url.href, page, questions: await this.#questionsOf(url, page) }
  }

  /** A changed page has lost its questions. An unchanged one without any may be left from an earlier run. */
  async #questionsOf(url: URL, page: PutOutcome): Promise<QuestionsOutcome | null> {
    if (this.#questions === null || !('questions' in page) || page.questions > 0) return null
    if (!this.#questions.isFor(url)) return null
    const stop = this.#stopQuestions
    if (stop.aborted) return { kind: 'not-started' }
    const { gateway, wait } = this.#context
    const outcome = await writeQuestions(url, this.#questions.prompt, gateway, { wait, stop })
    // Pages can still be indexed without a budget.
    if (outcome.kind === 'failed' && FATAL.has(outcome.code)) this.#unpaid.abort()
    return outcome
  }
}

/**
 * The pages that stay in the index. A page that the settings do not allow any more does not stay; one
 * that failed does. Null if nothing was indexed, or some pages were not started: there is too little
 * to decide by.
 */
export function pagesToStay(results: readonly PageResult[]): URL[] | null {
  const has = (...kinds: readonly PageResult['page']['kind'][]) =>
    results.some(({ page }) => kinds.includes(page.kind))
  if (!has('indexed', 'unchanged') || has('not-started')) return null
  return results.flatMap(({ url, page }) => (page.kind === 'not-allowed' ? [] : new URL(url)))
}

/** What became of a page that was to be removed. */
export interface RemovalResult {
  readonly url: string
  readonly removal: RemoveOutcome
}

/** Removes pages. Those that are not started before the signal aborted are left out. */
export async function removePages(
  urls: readonly string[],
  { gateway, concurrency, wait, signal: stop }: IndexContext,
  onResult: (result: RemovalResult) => void,
): Promise<RemovalResult[]> {
  const results = await someAtOnce(urls, concurrency, stop, async (url) => {
    const result = { url, removal: await removePage(url, gateway, { wait, stop }) }
    onResult(result)
    return result
  })
  return results.filter((result) => result !== null)
}
