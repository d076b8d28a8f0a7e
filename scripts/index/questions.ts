// The questions that a page answers: a locked prompt writes them, and they are indexed with the page.
import type { RetryContext } from '../operator/concurrent.ts'
import type { Gateway } from '../operator/gateway.ts'
import { generate } from '../operator/generate.ts'
import { type PagePrompt, pagePrompt, pageTask } from '../operator/pages.ts'
import { putPage } from './site.ts'

export type QuestionsOutcome =
  | { readonly kind: 'written'; readonly questions: number; readonly tokens: number }
  | {
      readonly kind: 'failed'
      readonly code: string | null
      readonly reason: string
      readonly tokens: number
    }
  /** Questions were stopped before this page. */
  | { readonly kind: 'not-started' }

/** @throws Error if the prompt does not exist, or has other variables than a page */
export function questionsPrompt(list: unknown, id: string): PagePrompt {
  const prompt = pagePrompt(list, id)
  if (prompt.others.length === 0) return prompt
  throw new Error(
    `Cannot use the prompt "${id}" for questions: it has the variable "${prompt.others[0]}", expected only one { from = "url" }`,
  )
}

/** Has the prompt write the questions of a page, and indexes them. A cached answer costs nothing. */
export async function writeQuestions(
  url: URL,
  prompt: PagePrompt,
  gateway: Gateway,
  retries: RetryContext,
): Promise<QuestionsOutcome> {
  const answer = await generate(pageTask(url, prompt), gateway, retries)
  if (answer.kind === 'failed') return answer
  const tokens = 'tokens' in answer ? answer.tokens : 0
  const questions = parseQuestions(answer)
  if (questions.length === 0) {
    return { kind: 'failed', code: null, reason: 'the answer has no questions', tokens }
  }
  const stored = await putPage({ url: url.href, questions }, gateway, retries)
  if ('questions' in stored) return { kind: 'written', questions: stored.questions, tokens }
  const code = 'code' in stored ? stored.code : null
  return { kind: 'failed', code, reason: stored.reason, tokens }
}

const MAX_QUESTIONS = 12
const MAX_CHARS = 200
/** A number, a letter or a bullet of a list; several, as in "- 1.". */
const MARKER = /^(?:(?:\d{1,3}|[a-z])[.):]|[-*+•–—>])\s+/iu
/** Of Markdown or with a colon, as in "Here are the questions:". */
const HEADING = /^#|[:：]\**$/u

/**
 * The questions in an answer, one per line. The last line of a cut answer is incomplete.
 *
 * @internal
 */
export function parseQuestions({
  text,
  isCut,
}: {
  readonly text: string
  readonly isCut: boolean
}): string[] {
  const lines = text.split(/\r?\n/)
  const questions = (isCut ? lines.slice(0, -1) : lines)
    .map(questionIn)
    .filter((line) => line !== '' && line.length <= MAX_CHARS)
  return [...new Set(questions)].slice(0, MAX_QUESTIONS)
}

/** The line without markers and emphasis; "" for a heading. */
function questionIn(line: string): string {
  let rest = line
    .replaceAll(/\p{Cc}+/gu, ' ')
    .toWellFormed()
    .trim()
  if (HEADING.test(rest)) return ''
  while (MARKER.test(rest)) rest = rest.replace(MARKER, '')
  return rest
    .replaceAll('**', '')
    .replace(/^["“„«](.*)["”“»]$/u, '$1')
    .trim()
}
