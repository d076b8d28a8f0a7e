// `--out`: the stored summaries as a JSON object by path, for the build of a site. Entries are sorted, so
// that a new summary changes its own line only.
import { access, constants, mkdir, writeFile } from 'node:fs/promises'
import { dirname } from 'node:path'
import { codeIn, type Gateway } from '../operator/gateway.ts'
import { choiceIn } from '../operator/generate.ts'
import type { PageTask } from '../operator/pages.ts'
import { readTextFile } from '../operator/text-file.ts'
import type { Outcome } from './warming.ts'

export type Summaries = Readonly<Record<string, string>>

/**
 * The summaries of an earlier run; none if there is no such file, whose folder is then created.
 *
 * @throws Error if the file cannot be written, or holds something else, which must not be overwritten
 */
export async function openSummaries(file: string): Promise<Summaries> {
  const text = await readTextFile(file)
  if (text === null) {
    await mkdir(dirname(file), { recursive: true })
    await access(dirname(file), constants.W_OK)
    return {}
  }
  await access(file, constants.W_OK)
  const summaries = parsed(text)
  if (summaries !== null) return summaries
  throw new Error(
    `Cannot use --out ${file}: the file exists, but it does not hold summaries by path`,
  )
}

function parsed(text: string): Summaries | null {
  try {
    const value: unknown = JSON.parse(text)
    if (typeof value !== 'object' || value === null || Array.isArray(value)) return null
    const isEntry = ([path, summary]: [string, unknown]) =>
      path.startsWith('/') && typeof summary === 'string'
    return Object.entries(value).every(isEntry) ? (value as Summaries) : null
  } catch {
    return null
  }
}

/**
 * The summaries that visitors get, with the addresses of pages that have none. A page that failed may
 * have an earlier one; if the Worker cannot tell, the one of the file stays.
 */
export async function collectSummaries(
  tasks: readonly PageTask[],
  outcomes: readonly Outcome[],
  before: Summaries,
  gateway: Pick<Gateway, 'stored'>,
): Promise<{ readonly summaries: Summaries; readonly missing: readonly string[] }> {
  const found: [string, string][] = []
  const missing: string[] = []
  for (const [i, { name, request }] of tasks.entries()) {
    const outcome = outcomes[i]
    const path = new URL(name).pathname
    const text =
      outcome !== undefined && 'text' in outcome
        ? outcome.text
        : await storedText(request, gateway, before[path])
    if (text?.trim()) found.push([path, text.trim()])
    else missing.push(name)
  }
  return { summaries: Object.fromEntries(found), missing }
}

async function storedText(
  { prompt }: PageTask['request'],
  gateway: Pick<Gateway, 'stored'>,
  before: string | undefined,
): Promise<string | undefined> {
  try {
    const { status, text } = await gateway.stored(prompt)
    if (status === 200) return choiceIn(text).text
    return codeIn(text) === 'not_cached' ? undefined : before
  } catch {
    return before
  }
}

/** Does not touch a file that would stay the same: builds watch it. */
export async function writeSummaries(file: string, summaries: Summaries): Promise<void> {
  const sorted = Object.entries(summaries).sort(([a], [b]) => (a < b ? -1 : 1))
  const text = `${JSON.stringify(Object.fromEntries(sorted), null, 2)}\n`
  const current = await readTextFile(file)
  if (text !== current) await writeFile(file, text)
}
