// Turns the pages of a site into requests: a locked prompt with each page in its page variable.
import * as v from 'valibot'
import { canonicalAddressOf, readAddress, refusalOf } from '../../src/page/rules.ts'
import type { LockedPrompt } from './gateway.ts'
import type { Task } from './generate.ts'
import { printable } from './printable.ts'
import { shellCommand } from './shell.ts'
import type { Sitemap, Skipped } from './sitemap.ts'

/** A locked prompt with a page variable, as listed by `GET /v1/prompts`. */
export interface PagePrompt {
  readonly id: string
  /** The name of the page variable. */
  readonly variable: string
  readonly paths: readonly string[]
  /** The maximum length of the page's text. */
  readonly maxChars: number
  /** The names of the other variables. */
  readonly others: readonly string[]
}

export interface PageTask extends Task {
  readonly request: { readonly prompt: LockedPrompt }
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

/** @throws Error if the prompt does not exist or does not have exactly one page variable */
export function pagePrompt(list: unknown, id: string): PagePrompt {
  const result = v.safeParse(listSchema, list)
  if (!result.success) {
    throw new Error('Cannot read the list of prompts: it is not from an edge-completions Worker')
  }
  const prompts = result.output.data
  const prompt = prompts.find((each) => each.id === id)
  const name = JSON.stringify(id)
  if (prompt === undefined) {
    const known = prompts.map((each) => each.id).join(', ') || 'no prompts'
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

/** The pages of a site by name, each at its first address, and the reasons for skipping the others. */
export interface SitePages {
  readonly pages: ReadonlyMap<string, URL>
  readonly skipped: readonly Skipped[]
}

/** @param refusalOf another reason to skip a page; null if there is no reason */
export function sitePages(
  { origin, pages: written }: Pick<Sitemap, 'origin' | 'pages'>,
  refusalOf: (url: URL) => string | null = () => null,
): SitePages {
  const pages = new Map<string, URL>()
  const skipped: Skipped[] = []
  for (const page of written) {
    const url = readAddress(page)
    const reason = faultOf(page, url, origin) ?? (url && refusalOf(url))
    if (url === null || reason !== null) {
      skipped.push({ url: printable(page), reason: reason ?? '' })
      continue
    }
    // Two addresses of the same page need only one request.
    if (!pages.has(canonicalAddressOf(url))) pages.set(canonicalAddressOf(url), url)
  }
  return { pages, skipped }
}

/**
 * A request for each page that the prompt may use, and the reasons for skipping the others.
 *
 * @param own the Worker's address, which page variables may not have
 * @throws Error if a variable is missing or unknown
 */
export function pageTasks(
  sitemap: Pick<Sitemap, 'origin' | 'pages'>,
  prompt: PagePrompt,
  variables: Readonly<Record<string, string>>,
  own: URL,
): { readonly tasks: readonly PageTask[]; readonly skipped: readonly Skipped[] } {
  checkVariables(Object.keys(variables), prompt)
  const { pages, skipped } = sitePages(sitemap, (url) => promptRefusalOf(url, prompt, own))
  return { tasks: [...pages.values()].map((url) => pageTask(url, prompt, variables)), skipped }
}

/** Why the prompt may not use a page of the site; null if it may. */
export function promptRefusalOf(url: URL, { paths }: PagePrompt, own: URL): string | null {
  return refusalOf(url, { origins: [url.origin], paths, own })
}

/** The request for one page. */
export function pageTask(
  { href }: URL,
  { id, variable }: PagePrompt,
  others: Readonly<Record<string, string>> = {},
): PageTask {
  return { name: href, request: { prompt: { id, variables: { ...others, [variable]: href } } } }
}

function checkVariables(names: readonly string[], { id, others }: PagePrompt): void {
  for (const name of names.filter((each) => !others.includes(each))) {
    throw new Error(`Cannot use --variable ${name}: the prompt "${id}" has no such variable`)
  }
  for (const name of others.filter((each) => !names.includes(each))) {
    throw new Error(`Missing the variable "${name}": add ${shellCommand('--variable', name)}=…`)
  }
}

function faultOf(page: string, url: URL | null, origin: string): string | null {
  if (url === null) return 'it is not the address of a page'
  if (url.origin !== origin) return `its origin is not ${origin}`
  // The Worker drops the query, so it would read a different page.
  return new URL(page).search === '' ? null : 'its address has a query'
}
