// A locked prompt's variables that are pages: from the URL a visitor names to the text in the prompt.
// Decides who may have a page fetched; what is read and kept is page/.
//
// The one rule: a page is fetched only for a request that may also generate. A GET, a visitor's
// `only-if-cached` and visitors of a prompt with spend = "operator" are answered from the text that
// was last read, so they cost no fetch and find no other answer than the one that is there.
import type { PageTexts } from '../completion/effective.ts'
import type { PageText } from '../completion/page-text.ts'
import { isLocked, type VisitorRequest } from '../completion/request.ts'
import {
  type PageVariable,
  type Variables,
  variableParam,
  wrongVariable,
} from '../completion/template.ts'
import { GatewayError } from '../errors.ts'
import type { PageFault, Report } from '../events.ts'
import { readAddress, refusalOf } from '../page/address.ts'
import { PageError } from '../page/fetch.ts'
import type { Keep, Page, Pages } from '../page/pages.ts'
import { isWithin, rateLimited, type SpendLimit } from './spend-limit.ts'

export interface PageVariablesOptions {
  readonly origins: readonly string[]
  readonly prompts: ReadonlyMap<
    string,
    { readonly variables: Variables; readonly ttl_seconds: number | null }
  >
  /** How long answers may be served after they were made, where a prompt does not say. */
  readonly ttlSeconds: number
  readonly staleSeconds: number
}

export interface PageVariablesContext {
  readonly pages: Pages
  readonly spendLimit: SpendLimit
  readonly report: Report
}

/** Who asks, and what may be done for them. */
export interface PageAsker {
  readonly requestId: string
  /** Null: the operator, whom no rate limits. */
  readonly visitor: string | null
  readonly mayFetch: boolean
}

/** A request's pages: which, and once they are read, what they say. */
export type NamedPages = ReadonlyMap<string, Page>

export interface PagesRead {
  readonly texts: PageTexts
  /** To be called when there is an answer made of these texts. */
  readonly keep: Keep
}

export class PageVariables {
  readonly #options: PageVariablesOptions
  readonly #context: PageVariablesContext
  /** Of each prompt that has any. */
  readonly #variables: ReadonlyMap<string, readonly (readonly [string, PageVariable])[]>

  constructor(options: PageVariablesOptions, context: PageVariablesContext) {
    this.#options = options
    this.#context = context
    this.#variables = new Map(
      [...options.prompts]
        .map(([id, { variables }]) => [id, pageVariables(variables)] as const)
        .filter(([, variables]) => variables.length > 0),
    )
  }

  /**
   * The pages that a valid request names; null where its prompt has none.
   *
   * @param own where the Worker was called
   * @throws GatewayError `invalid_value` for what is no URL, `page_not_allowed`
   */
  named({ prompt }: VisitorRequest, own: URL): NamedPages | null {
    const variables = isLocked(prompt) ? this.#variables.get(prompt.id) : undefined
    if (variables === undefined || !isLocked(prompt)) return null
    const { id, variables: values = {} } = prompt
    return new Map(
      variables.map(([name, variable]) => {
        return [name, this.#page(id, name, values[name], variable, own)]
      }),
    )
  }

  /** @throws GatewayError `not_cached`, `page_unavailable`, `page_not_allowed`, `rate_limited` */
  async read(named: NamedPages, asker: PageAsker): Promise<PagesRead> {
    const texts = new Map<string, PageText>()
    const keeps: Keep[] = []
    await Promise.all(
      [...named].map(async ([name, page]) => {
        const read = await this.#read(name, page, asker)
        texts.set(name, read.text)
        if (read.keep !== null) keeps.push(read.keep)
      }),
    )
    return {
      // In the prompt's order, whichever came first.
      texts: new Map([...named.keys()].map((name) => [name, texts.get(name) as PageText])),
      keep: (isFound) => {
        for (const keep of keeps) keep(isFound)
      },
    }
  }

  async #read(name: string, page: Page, { requestId, visitor, mayFetch }: PageAsker) {
    const { pages, spendLimit, report } = this.#context
    const counted = async () => {
      if (visitor !== null && !(await isWithin(spendLimit, visitor))) throw rateLimited()
    }
    try {
      const read = await pages.read(page, {
        mayFetch: mayFetch ? counted : null,
        thorough: visitor === null,
        failed: (reason) => report({ event: 'page_failed', request_id: requestId, reason }),
      })
      if (read !== null) return read
    } catch (error) {
      if (error instanceof PageError) throw unavailable(name, error.fault)
      throw error
    }
    throw new GatewayError(
      'not_cached',
      `Cannot answer from the cache: the page of "${name}" has not been read yet`,
      { param: variableParam(name) },
    )
  }

  #page(id: string, name: string, value: unknown, variable: PageVariable, own: URL): Page {
    const { origins, prompts, ttlSeconds, staleSeconds } = this.#options
    const url = typeof value === 'string' ? readAddress(value) : null
    if (url === null) throw wrongVariable(name, 'expected an absolute http or https URL')
    const { paths, selector, max_chars: maxChars, page_seconds: freshSeconds } = variable
    const refusal = (address: URL) => refusalOf(address, { origins, paths, own })
    const state = refusal(url)
    if (state !== null) throw notAllowed(name, state)
    return {
      promptId: id,
      url,
      selector,
      maxChars,
      freshSeconds,
      keepSeconds: (prompts.get(id)?.ttl_seconds ?? ttlSeconds) + staleSeconds + freshSeconds,
      refusalOf: refusal,
    }
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
  charset: 'its character encoding is not known',
  too_large: 'it is larger than 1 MiB',
  broken: 'it broke off',
  unreadable: 'its HTML cannot be read',
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
