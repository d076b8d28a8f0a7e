// Variables of locked prompts that are pages: from a visitor's URL to the text in the prompt.
// Decides which pages may be used and fetched; lookups.ts decides when.
import { pageName } from '../cache/names.ts'
import { GatewayError } from '../errors.ts'
import type { PageFault } from '../events.ts'
import { PageError } from '../page/fetch.ts'
import {
  type AddressOptions,
  canonicalAddressOf,
  lookupRefusalOf,
  readAddress,
  redirectRefusalOf,
  refusalOf,
} from '../page/rules.ts'
import type { Page, PageRead, Pages, PageVersion } from '../page/store.ts'
import type { PageTexts } from '../request/effective.ts'
import { isLocked, type VisitorRequest } from '../request/schema.ts'
import {
  invalidVariable,
  type PageVariable,
  type Variable,
  type Variables,
  variableParam,
  variablesPath,
} from '../request/template.ts'

export interface PageVariablesDeps {
  readonly pages: Pages
  readonly origins: readonly string[]
  readonly prompts: ReadonlyMap<string, { readonly variables: Variables }>
}

/** A page that a request names, before any check whether it is allowed. */
interface NamedPage {
  readonly url: URL
  /** The normalised address, the same for all URLs of the page. */
  readonly address: string
  /** The name it is purged by. */
  readonly name: string
  readonly variable: PageVariable
  /** The path of the variable in the request, for errors. */
  readonly param: string
}

/** A request's pages by variable name, in the prompt's order. */
export type NamedPages = ReadonlyMap<string, NamedPage>

/** Pages that may be used. `refusal` is the reason why one must not be fetched at its address. */
export type AdmittedPages = ReadonlyMap<
  string,
  { readonly page: Page; readonly refusal: string | null; readonly param: string }
>

export interface PagesRead {
  readonly texts: PageTexts
  readonly versions: readonly PageVersion[]
}

export class PageVariables {
  readonly #deps: PageVariablesDeps
  /** The page variables of each prompt that has any. */
  readonly #variables: ReadonlyMap<string, readonly (readonly [string, PageVariable])[]>

  constructor(deps: PageVariablesDeps) {
    this.#deps = deps
    this.#variables = new Map(
      [...deps.prompts]
        .map(([id, { variables }]) => [id, Object.entries(variables).filter(isPage)] as const)
        .filter(([, variables]) => variables.length > 0),
    )
  }

  /**
   * The pages that a valid request names; null if its prompt has no page variables.
   *
   * @throws GatewayError `invalid_value` if a value is not a URL
   */
  async named({ prompt }: VisitorRequest): Promise<NamedPages | null> {
    if (!isLocked(prompt)) return null
    const { id, variables: values = {} } = prompt
    const variables = this.#variables.get(id)
    if (variables === undefined) return null
    const path = variablesPath(prompt)
    const pages = variables.map(async ([name, variable]): Promise<[string, NamedPage]> => {
      const param = variableParam(path, name)
      const value = values[name]
      const url = typeof value === 'string' ? readAddress(value) : null
      if (url === null) throw invalidVariable(param, 'expected an absolute http or https URL')
      const address = canonicalAddressOf(url)
      return [name, { url, address, name: await pageName(address), variable, param }]
    })
    return new Map(await Promise.all(pages))
  }

  /**
   * @param own the URL of this request to the Worker
   * @throws GatewayError `page_not_allowed`
   */
  admitted(named: NamedPages, own: URL): AdmittedPages {
    const { origins } = this.#deps
    return new Map(
      [...named].map(([variable, { url, name, variable: settings, param }]) => {
        const { paths, selector, max_chars: maxChars, page_seconds: freshSeconds } = settings
        const options: AddressOptions = { origins, paths, own }
        const reason = lookupRefusalOf(url, options)
        if (reason !== null) throw notAllowed(variable, param, reason)
        const page = {
          url,
          name,
          selector,
          maxChars,
          freshSeconds,
          refusalOf: (to: URL) => redirectRefusalOf(url, to, options),
        }
        return [variable, { page, refusal: refusalOf(url, options), param }]
      }),
    )
  }

  /** @throws GatewayError `page_not_allowed` if one of them must not be fetched at its address */
  refuseUnlisted(admitted: AdmittedPages): void {
    for (const [variable, { refusal, param }] of admitted) {
      if (refusal !== null) throw notAllowed(variable, param, refusal)
    }
  }

  /**
   * The texts of all pages if this isolate has read all of them recently; otherwise null.
   *
   * @param since unix ms; earlier reads are too old
   */
  cached(admitted: AdmittedPages, since: number): PagesRead | null {
    return pagesRead(
      [...admitted].map(([variable, { page }]) => [variable, this.#deps.pages.cached(page, since)]),
    )
  }

  /**
   * Fetches the pages.
   *
   * @param known versions whose texts are not needed if the pages have not changed
   * @param failed called with the reason when a page cannot be read
   * @returns null if no page has changed since the known versions
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
        [...admitted].map(async ([variable, { page, param }], i) => {
          try {
            return [variable, await this.#deps.pages.read(page, versions[i] ?? null)] as const
          } catch (error) {
            if (!(error instanceof PageError)) throw error
            failed(error.fault)
            throw unavailable(variable, param, error.fault)
          }
        }),
      )
    const reads = await fetchAll(known ?? [])
    if (reads.every(([, read]) => read === null)) return null
    // If only some have changed, the texts of the unchanged pages are needed, too.
    return pagesRead(reads) ?? pagesRead(await fetchAll([]))
  }
}

/** Null if one of the pages has not been read. */
function pagesRead(reads: readonly (readonly [string, PageRead | null])[]): PagesRead | null {
  const texts = new Map<string, PageRead['text']>()
  const versions: PageVersion[] = []
  for (const [variable, read] of reads) {
    if (read === null) return null
    texts.set(variable, read.text)
    versions.push(read.version)
  }
  return { texts, versions }
}

function isPage(entry: [string, Variable]): entry is [string, PageVariable] {
  return 'from' in entry[1] && entry[1].from === 'url'
}

function notAllowed(name: string, param: string, reason: string): GatewayError {
  const message = `Cannot read the page of "${name}": ${reason}`
  return new GatewayError('page_not_allowed', message, { param })
}

/** Why a page cannot be read, as the end of a sentence. */
export const reasons: Readonly<Record<Exclude<PageFault, 'elsewhere'>, string>> = {
  unreachable: 'it cannot be reached',
  timeout: 'it takes too long to load',
  status: 'expected status 200',
  redirects: 'it redirects too often or without a valid address',
  type: 'expected HTML, plain text or Markdown',
  charset: 'browsers do not support its character encoding',
  too_large: 'it is larger than 1 MiB',
  broken: 'the connection was lost',
  empty: 'the owner\'s "selector" matches no text in it',
}

function unavailable(name: string, param: string, fault: PageFault): GatewayError {
  if (fault === 'elsewhere') {
    return notAllowed(name, param, 'it redirects to a page that is not allowed')
  }
  const message = `Cannot read the page of "${name}": ${reasons[fault]}`
  return new GatewayError('page_unavailable', message, { param, cause: fault })
}
