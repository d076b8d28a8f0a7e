// Fetches one page anonymously: without credentials or visitor headers, and with limits on time,
// bytes and redirects. Returns its document or throws the reason. Stores nothing.
import { deadline } from '../deadline.ts'
import type { PageFault } from '../events.ts'
import type { Element } from '../html/node.ts'
import type { References } from '../html/references.ts'
import { readBytes } from '../http/body.ts'
import type { ContentType } from './charset.ts'

/** The validators of a page's version (RFC 9110, 8.8). */
export interface Validators {
  readonly etag: string | null
  readonly last_modified: string | null
}

export interface PageSource {
  readonly url: URL
  /** Why a redirect to this address must not be followed; null if it may be. */
  readonly refusalOf: (url: URL) => string | null
}

export interface FetchDeps {
  readonly fetch: (request: Request) => Promise<Response>
  /** The names of character references. Only HTML needs them. */
  readonly references: () => Promise<References>
}

export interface FetchedPage {
  /** The tree of HTML; the text of any other page. */
  readonly document: Element | string
  readonly validators: Validators
}

/** A page could not be read. Holds one code of a closed list and nothing of the page. */
export class PageError extends Error {
  override readonly name = 'PageError'
  readonly fault: PageFault

  constructor(fault: PageFault) {
    super(fault)
    this.fault = fault
  }
}

/** The limit for the whole fetch, including redirects. */
const DEADLINE_MS = 5000
/** The limit for the body after decompression. */
const MAX_BYTES = 1_048_576
const MAX_REDIRECTS = 3
const REDIRECTS: ReadonlySet<number> = new Set([301, 302, 303, 307, 308])
const PLAIN: ReadonlySet<string> = new Set(['text/plain', 'text/markdown', 'text/x-markdown'])
const HTML: ReadonlySet<string> = new Set(['text/html', 'application/xhtml+xml'])
/** The codings that the runtime decodes. Any other would be read as text and sent upstream. */
const CODINGS: ReadonlySet<string> = new Set(['', 'identity', 'gzip', 'br'])

/**
 * @param known the validators of the version that the caller has, for a conditional request
 * @param maxTextBytes the limit for pages that are not HTML
 * @returns null if the page still matches these validators
 * @throws PageError
 */
export async function fetchPage(
  page: PageSource,
  known: Validators | null,
  { fetch, references }: FetchDeps,
  maxTextBytes = MAX_BYTES,
): Promise<FetchedPage | null> {
  return await deadline(
    DEADLINE_MS,
    async (signal) => {
      const headers = headersFor(known)
      // A cached version may be older than what the owner has just deployed.
      const init: RequestInit = { headers, redirect: 'manual', cache: 'no-store', signal }
      const response = await follow(page, (url) => fetch(new Request(url, init)))
      if (response.status !== 304 || known === null) {
        return await read(response, references, maxTextBytes)
      }
      discard(response)
      return null
    },
    () => {
      throw new PageError('timeout')
    },
  )
}

async function read(
  response: Response,
  references: FetchDeps['references'],
  maxTextBytes: number,
): Promise<FetchedPage> {
  const { status, headers } = response
  // All that reads pages is imported when it is needed (scripts/build-worker.ts).
  const { parseContentType } = await import('./charset.ts')
  const contentType = parseContentType(headers.get('content-type') ?? '')
  const { type } = contentType
  const coding = (headers.get('content-encoding') ?? '').trim().toLowerCase()
  const isText = (HTML.has(type) || PLAIN.has(type)) && CODINGS.has(coding)
  if (status !== 200 || !isText) {
    discard(response)
    throw new PageError(status !== 200 ? 'status' : 'type')
  }
  const bytes = await receive(response, HTML.has(type) ? MAX_BYTES : maxTextBytes)
  return {
    document: await documentOf(bytes, contentType, references),
    validators: {
      etag: validator(headers.get('etag')),
      last_modified: validator(headers.get('last-modified')),
    },
  }
}

/** Follows redirects within the page's origin and returns the final response. */
async function follow(
  { url: from, refusalOf }: PageSource,
  send: (url: URL) => Promise<Response>,
): Promise<Response> {
  let url = from
  for (let redirects = 0; ; redirects++) {
    const response = await send(url).catch(() => {
      throw new PageError('unreachable')
    })
    if (!REDIRECTS.has(response.status)) return response
    discard(response)
    const location = response.headers.get('location') ?? ''
    if (redirects === MAX_REDIRECTS || location === '' || !URL.canParse(location, url.href)) {
      throw new PageError('redirects')
    }
    url = new URL(location, url)
    if (url.origin !== from.origin || refusalOf(url) !== null) throw new PageError('elsewhere')
  }
}

/** The same headers for every visitor, so that everyone gets the same page. */
function headersFor(known: Validators | null): Record<string, string> {
  return {
    accept: 'text/html, text/markdown, text/plain',
    'user-agent': 'edge-completions',
    ...(known?.etag ? { 'if-none-match': known.etag } : {}),
    ...(known?.last_modified ? { 'if-modified-since': known.last_modified } : {}),
  }
}

/** Cancels a body that is not read, which frees the connection. */
function discard({ body }: Response): void {
  body?.cancel().catch(() => {})
}

/** Counts decoded bytes while reading, so that a small gzip body cannot expand beyond the limit. */
async function receive({ body }: Response, maxBytes: number): Promise<Uint8Array> {
  if (body === null) return new Uint8Array()
  const bytes = await readBytes(body.getReader(), maxBytes).catch(() => {
    throw new PageError('broken')
  })
  if (bytes === null) throw new PageError('too_large')
  return bytes
}

async function documentOf(
  bytes: Uint8Array,
  contentType: ContentType,
  references: FetchDeps['references'],
): Promise<Element | string> {
  const { decodeHtml, decodeText, ReplacementError } = await import('./charset.ts')
  try {
    if (!HTML.has(contentType.type)) return decodeText(bytes, contentType.charset)
    return decodeHtml(bytes, contentType, await references())
  } catch (error) {
    throw error instanceof ReplacementError ? new PageError('charset') : error
  }
}

/** A validator that can be sent back unchanged. */
function validator(value: string | null): string | null {
  return value !== null && /^[\x20-\x7e\x80-\xff]{1,512}$/.test(value) ? value : null
}
