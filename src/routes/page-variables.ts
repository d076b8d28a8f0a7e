// A locked prompt's variables that are pages: from the URL a visitor names to the text in the prompt.
// Decides which pages may be had and fetched; when one is, is last-answers.ts.
import { pageName } from '../cache/names.ts'
import type { PageTexts } from '../completion/effective.ts'
import { isLocked, type VisitorRequest } from '../completion/request.ts'
import {
  type PageVariable,
  type Variables,
  variableParam,
  wrongVariable,
} from '../completion/template.ts'
import { GatewayError } from '../errors.ts'
import type { PageFault } from '../events.ts'
import {
  type AddressOptions,
  nameRefusalOf,
  pageAt,
  readAddress,
  redirectRefusalOf,
  refusalOf,
} from '../page/address.ts'
import { PageError } from '../page/fetch.ts'
import type { Page, PageRead, Pages, PageVersion } from '../page/pages.ts'

export interface PageVariablesOptions {
  readonly origins: readonly string[]
  readonly prompts: ReadonlyMap<string, { readonly variables: Variables }>
}

/** A page that a request names, whether it may be had or not. */
interface NamedPage {
  readonly url: URL
  /** The same for all addresses of the page. */
  readonly address: string
  /** What a purge names it by. */
  readonly name: string
  readonly variable: PageVariable
}

/** A request's pages, by the names of their variables, in the prompt's order. */
export type NamedPages = ReadonlyMap<string, NamedPage>

/** Pages that may be had; which of them may be fetched is seen when they are. */
export type AdmittedPages = ReadonlyMap<
  string,
  { readonly page: Page; readonly refusal: string | null }
>

export interface PagesRead {
  readonly texts: PageTexts
  readonly versions: readonly PageVersion[]
}

export class PageVariables {
  readonly #options: PageVariablesOptions
  readonly #pages: Pages
  /** Of each prompt that has any. */
  readonly #variables: ReadonlyMap<string, readonly (readonly [string, PageVariable])[]>

  constructor(options: PageVariablesOptions, pages: Pages) {
    this.#options = options
    this.#pages = pages
    this.#variables = new Map(
      [...options.prompts]
        .map(([id, { variables }]) => [id, pageVariables(variables)] as const)
        .filter(([, variables]) => variables.length > 0),
    )
  }

  /**
   * The pages that a valid request names; null where its prompt has none.
   *
   * @throws GatewayError `invalid_value` for what is no URL
   */
  async named({ prompt }: VisitorRequest): Promise<NamedPages | null> {
    if (!isLocked(prompt)) return null
    const { id, variables: values = {} } = prompt
    const variables = this.#variables.get(id)
    if (variables === undefined) return null
    const pages = variables.map(async ([name, variable]): Promise<[string, NamedPage]> => {
      const value = values[name]
      const url = typeof value === 'string' ? readAddress(value) : null
      if (url === null) throw wrongVariable(name, 'expected an absolute http or https URL')
      const address = pageAt(url)
      return [name, { url, address, name: await pageName(address), variable }]
    })
    return new Map(await Promise.all(pages))
  }

  /**
   * @param own where the Worker was called
   * @throws GatewayError `page_not_allowed`
   */
  admitted(named: NamedPages, own: URL): AdmittedPages {
    const { origins } = this.#options
    return new Map(
      [...named].map(([variable, { url, name, variable: settings }]) => {
        const { paths, selector, max_chars: maxChars, page_seconds: freshSeconds } = settings
        const options: AddressOptions = { origins, paths, own }
        const state = nameRefusalOf(url, options)
        if (state !== null) throw notAllowed(variable, state)
        const page = {
          url,
          name,
          selector,
          maxChars,
          freshSeconds,
          refusalOf: (to: URL) => redirectRefusalOf(url, to, options),
        }
        return [variable, { page, refusal: refusalOf(url, options) }]
      }),
    )
  }

  /** @throws GatewayError `page_not_allowed` where one of them must not be fetched at its address */
  refuseUnlisted(admitted: AdmittedPages): void {
    for (const [variable, { refusal }] of admitted) {
      if (refusal !== null) throw notAllowed(variable, refusal)
    }
  }

  /**
   * The texts of all pages, where this isolate has read all of them lately enough.
   *
   * @param since unix ms: what was read before is too old
   */
  remembered(admitted: AdmittedPages, since: number): PagesRead | null {
    const reads = new Map<string, PageRead>()
    for (const [variable, { page }] of admitted) {
      const read = this.#pages.remembered(page, since)
      if (read === null) return null
      reads.set(variable, read)
    }
    return pagesRead(reads)
  }

  /**
   * Fetches the pages.
   *
   * @param known versions whose texts are not needed if the pages still are those
   * @param failed told why a page could not be read
   * @returns null where all of them are the known versions
   * @throws GatewayError `page_unavailable`, `page_not_allowed`
   */
  async read(
    admitted: AdmittedPages,
    known: readonly PageVersion[] | null,
    failed: (fault: PageFault) => void,
  ): Promise<PagesRead | null> {
    this.refuseUnlisted(admitted)
    const fetchAll = async (versions: readonly PageVersion[]) =>
      await Promise.all(
        [...admitted].map(async ([variable, { page }], i) => {
          try {
            return [variable, await this.#pages.read(page, versions[i] ?? null)] as const
          } catch (error) {
            if (!(error instanceof PageError)) throw error
            failed(error.fault)
            throw unavailable(variable, error.fault)
          }
        }),
      )
    const reads = await fetchAll(known ?? [])
    if (reads.every(([, read]) => read === null)) return null
    const isWhole = reads.every(([, read]) => read !== null)
    // Of several pages one has changed: now the texts of the others are needed, too.
    return pagesRead(new Map((isWhole ? reads : await fetchAll([])) as [string, PageRead][]))
  }
}

function pagesRead(reads: ReadonlyMap<string, PageRead>): PagesRead {
  return {
    texts: new Map([...reads].map(([variable, { text }]) => [variable, text])),
    versions: [...reads.values()].map(({ version }) => version),
  }
}

function pageVariables(variables: Variables): [string, PageVariable][] {
  const pages: [string, PageVariable][] = []
  for (const [name, variable] of Object.entries(variables)) {
    if ('from' in variable) pages.push([name, variable])
  }
  return pages
}

function notAllowed(name: string, state: string): GatewayError {
  return new GatewayError('page_not_allowed', `Cannot read the page of "${name}": ${state}`, {
    param: variableParam(name),
  })
}

const states: Readonly<Record<Exclude<PageFault, 'elsewhere'>, string>> = {
  unreachable: 'it cannot be reached',
  timeout: 'it takes too long to come',
  status: 'it does not answer with 200',
  redirects: 'it redirects too often, or to nowhere',
  type: 'expected HTML, plain text or Markdown',
  charset: 'its character encoding is not one that browsers read',
  too_large: 'it is larger than 1 MiB',
  broken: 'it broke off',
  empty: 'it has no text where the owner\'s "selector" looks for it',
}

function unavailable(name: string, fault: PageFault): GatewayError {
  if (fault === 'elsewhere') return notAllowed(name, 'it redirects to what may not be read')
  return new GatewayError(
    'page_unavailable',
    `Cannot read the page of "${name}": ${states[fault]}`,
    {
      param: variableParam(name),
      cause: fault,
    },
  )
}
