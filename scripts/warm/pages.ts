// From the pages of a site to what is asked about them: a locked prompt whose one page variable is
// filled with each. Asks nothing itself.
import * as v from 'valibot'
import { pageAt, readAddress, refusalOf } from '../../src/page/address.ts'
import { printable } from './gateway.ts'
import type { Sitemap, Skipped } from './sitemap.ts'
import type { Task } from './warming.ts'

/** A locked prompt about a page, as `GET /v1/prompts` shows it. */
export interface PagePrompt {
  readonly id: string
  /** The variable that is the page. */
  readonly variable: string
  readonly paths: readonly string[]
  /** As much of a page's text as is used. */
  readonly maxChars: number
  /** What else has to be filled. */
  readonly others: readonly string[]
}

const listSchema = v.object({
  data: v.array(
    v.object({
      id: v.string(),
      variables: v.record(
        v.string(),
        v.object({
          from: v.optional(v.string()),
          paths: v.optional(v.array(v.string()), []),
          max_chars: v.optional(v.number(), 0),
        }),
      ),
    }),
  ),
})

/** @throws Error that says why no page can be asked about with it */
export function pagePrompt(list: unknown, id: string): PagePrompt {
  const result = v.safeParse(listSchema, list)
  if (!result.success) throw new Error('Cannot read the list of prompts: is it this gateway’s?')
  const prompts = result.output.data
  const prompt = prompts.find((each) => each.id === id)
  const name = JSON.stringify(id)
  if (prompt === undefined) {
    const known = prompts.map((each) => each.id).join(', ') || 'none'
    throw new Error(`Cannot find the prompt ${name}: the Worker has ${known}`)
  }
  const entries = Object.entries(prompt.variables)
  const [page, ...more] = entries.filter(([, { from }]) => from === 'url')
  if (page === undefined) {
    throw new Error(`Cannot use the prompt ${name}: it has no variable { from = "url" }`)
  }
  if (more.length > 0) {
    throw new Error(
      `Cannot use the prompt ${name}: it has several variables { from = "url" }, expected one`,
    )
  }
  const [variable, { paths, max_chars: maxChars }] = page
  const others = entries.map(([other]) => other).filter((other) => other !== variable)
  return { id, variable, paths, maxChars, others }
}

/**
 * A request for each page that may be asked about, and why the others may not.
 *
 * @param own where the Worker is: it reads no page of its own
 * @throws Error where the variables are not those of the prompt
 */
export function pageTasks(
  { origin, pages }: Pick<Sitemap, 'origin' | 'pages'>,
  prompt: PagePrompt,
  variables: Readonly<Record<string, string>>,
  own: URL,
): { readonly tasks: readonly Task[]; readonly skipped: readonly Skipped[] } {
  refuseVariables(Object.keys(variables), prompt)
  const tasks = new Map<string, Task>()
  const skipped: Skipped[] = []
  for (const page of pages) {
    const url = readAddress(page)
    const reason = faultOf(page, url, { origins: [origin], paths: prompt.paths, own })
    if (url === null || reason !== null) {
      skipped.push({ url: printable(page), reason: reason ?? '' })
      continue
    }
    // Listed at two of its addresses it is one page: the first of them will do.
    if (tasks.has(pageAt(url))) continue
    const filled = { ...variables, [prompt.variable]: url.href }
    const request = { prompt: { id: prompt.id, variables: filled } }
    tasks.set(pageAt(url), { name: url.href, request })
  }
  return { tasks: [...tasks.values()], skipped }
}

function refuseVariables(given: readonly string[], { id, others }: PagePrompt): void {
  for (const name of given.filter((each) => !others.includes(each))) {
    throw new Error(
      `Cannot use --variable ${name}: the prompt "${id}" has no such variable to be given`,
    )
  }
  for (const name of others.filter((each) => !given.includes(each))) {
    throw new Error(`Cannot fill the variable "${name}": add --variable ${name}=…`)
  }
}

function faultOf(
  page: string,
  url: URL | null,
  options: Parameters<typeof refusalOf>[1],
): string | null {
  if (url === null) return 'it is no address of a page'
  const [origin] = options.origins
  if (url.origin !== origin) return `it is of another origin than ${origin}`
  // The Worker drops a query, and what is left would be another page.
  if (new URL(page).search !== '') return 'its address has a query'
  return refusalOf(url, options)
}
