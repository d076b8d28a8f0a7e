// Reads sitemaps and sitemap indexes (https://www.sitemaps.org/protocol.html), as XML or as plain
// text, gzipped or not, within limits of time, size, number and depth.
import { gunzipSync } from 'node:zlib'
import { parseXml, XmlElement } from '@rgrove/parse-xml'
import { readAtMost } from './body.ts'
import type { Fetch } from './gateway.ts'
import { printable } from './printable.ts'
import { decodeText } from './text.ts'

export interface Sitemap {
  /** The origin of the sitemap after redirects. */
  readonly origin: string
  /** The addresses of the pages as written in the sitemap, without duplicates. */
  readonly pages: readonly string[]
  readonly skipped: readonly Skipped[]
  /** Sitemaps of an index that could not be read, so their pages are missing. */
  readonly unread: readonly Skipped[]
}

export interface Skipped {
  readonly url: string
  readonly reason: string
}

export interface SitemapLimits {
  /** Nesting of indexes. */
  readonly depth: number
  readonly sitemaps: number
  readonly pages: number
  /** The decompressed size of all sitemaps together. */
  readonly bytes: number
  /**
   * The tags and attributes of all sitemaps together. The XML parser takes some microseconds and half a
   * kilobyte for each, so that a document of 50 MB that has nothing else would take 2 GB.
   */
  readonly marks: number
  /** The time to read one sitemap. */
  readonly ms: number
}

/** `pages` and `bytes` are what the protocol allows for one sitemap. */
const LIMITS: SitemapLimits = {
  depth: 3,
  sitemaps: 1000,
  pages: 50_000,
  bytes: 52_428_800,
  marks: 2_000_000,
  ms: 30_000,
}

interface Size {
  readonly bytes: number
  readonly marks: number
}

interface Found {
  readonly kind: 'index' | 'pages'
  readonly urls: readonly string[]
}

/**
 * @throws Error if the first sitemap cannot be read, or a limit is exceeded: a truncated list would
 * look complete
 */
export async function readSitemap(
  url: string,
  fetch: Fetch,
  changed: Partial<SitemapLimits> = {},
): Promise<Sitemap> {
  const limits = { ...LIMITS, ...changed }
  const pages = new Set<string>()
  const skipped: Skipped[] = []
  const unread: Skipped[] = []
  const seen = new Set<string>([url])
  const rest = [{ url, depth: 0 }]
  let origin = ''
  const total = { bytes: 0, marks: 0 }
  for (let next = rest.shift(); next !== undefined; next = rest.shift()) {
    const { url: current, depth } = next
    const cannot = (reason: string, Kind: new (message: string) => Error = Error) =>
      new Kind(`Cannot read the sitemap ${current}: ${reason}`)
    const read = await readOne(current, fetch, limits, total).catch((error) => {
      const reason = error instanceof SitemapError ? error.message : 'no response'
      if (error instanceof LimitError) throw cannot(reason, LimitError)
      if (depth === 0) throw cannot(reason)
      return reason
    })
    if (typeof read === 'string') {
      unread.push({ url: current, reason: read })
      continue
    }
    const { base, size, found } = read
    total.bytes += size.bytes
    total.marks += size.marks
    origin ||= base.origin
    if (base.origin !== origin) {
      skipped.push({ url: current, reason: `the origin of this sitemap is not ${origin}` })
      continue
    }
    const isIndex = found.kind === 'index'
    if (isIndex && depth === limits.depth) {
      throw cannot(`indexes are nested more than ${limits.depth} deep`, LimitError)
    }
    for (const written of found.urls) {
      const fault = faultOf(written, base, isIndex ? origin : null)
      if (fault !== null) skipped.push({ url: printable(written) || current, reason: fault })
      else if (!isIndex) pages.add(written)
      else if (!seen.has(written)) {
        seen.add(written)
        rest.push({ url: written, depth: depth + 1 })
      }
      if (pages.size > limits.pages) {
        throw cannot(`more than ${limits.pages} pages in total`, LimitError)
      }
      if (seen.size > limits.sitemaps) {
        throw cannot(`more than ${limits.sitemaps} sitemaps in total`, LimitError)
      }
    }
  }
  return { origin, pages: [...pages], skipped, unread }
}

/**
 * What is wrong with an address in a sitemap, or null.
 *
 * @param origin required for sitemaps in an index; null for pages
 */
function faultOf(written: string, base: URL, origin: string | null): string | null {
  if (written === '') return 'it has an empty <loc>'
  if (!URL.canParse(written)) {
    const absolute = URL.canParse(written, base.href) ? new URL(written, base).href : null
    return absolute === null
      ? 'it is not an address'
      : `it is relative, but a sitemap requires absolute addresses; write ${printable(absolute)}`
  }
  if (origin === null || new URL(written).origin === origin) return null
  return `the origin of this sitemap is not ${origin}`
}

/** Its message is meant for the user. */
class SitemapError extends Error {}

/** A sitemap is larger than a limit. */
export class LimitError extends SitemapError {}

/**
 * @param before the size of the previous sitemaps
 * @throws SitemapError, or any error of a failed connection
 */
async function readOne(url: string, fetch: Fetch, limits: SitemapLimits, before: Size) {
  const response = await fetch(new Request(url, { signal: AbortSignal.timeout(limits.ms) }))
  if (response.status !== 200) {
    await response.body?.cancel()
    throw new SitemapError(`the site returned ${response.status}`)
  }
  const tooLarge = new LimitError(`more than ${limits.bytes} bytes in total`)
  const left = limits.bytes - before.bytes
  const { bytes: packed, isCut } = await readAtMost(response, left)
  if (isCut) throw tooLarge
  const bytes = isGzip(packed) ? unpack(packed, left, tooLarge) : packed
  const text = textOf(bytes)
  const marks = marksIn(text)
  if (before.marks + marks > limits.marks) {
    throw new LimitError(`more than ${limits.marks} tags and attributes in total`)
  }
  const size = { bytes: bytes.length, marks }
  return { base: new URL(response.url || url), size, found: found(text) }
}

/** About as many as the tags, attributes and references of an XML document. */
function marksIn(text: string): number {
  let marks = 0
  for (let at = 0; at < text.length; at += 1) {
    const code = text.charCodeAt(at)
    if (code === LESS_THAN || code === EQUALS || code === AMPERSAND) marks += 1
  }
  return marks
}

const [AMPERSAND, LESS_THAN, EQUALS] = [0x26, 0x3c, 0x3d]

function textOf(bytes: Uint8Array): string {
  try {
    return decodeText(bytes)
  } catch (error) {
    throw new SitemapError(error instanceof Error ? error.message : 'it is not text')
  }
}

const isGzip = (bytes: Uint8Array) => bytes[0] === 0x1f && bytes[1] === 0x8b

function unpack(packed: Uint8Array, maxOutputLength: number, tooLarge: LimitError): Uint8Array {
  try {
    return gunzipSync(packed, { maxOutputLength })
  } catch (error) {
    const { code } = error as { code?: string }
    throw code === 'ERR_BUFFER_TOO_LARGE' ? tooLarge : new SitemapError('invalid gzip data')
  }
}

function found(text: string): Found {
  // Templates often leave blank lines before the XML declaration, which XML does not allow.
  const trimmed = text.trimStart()
  if (!trimmed.startsWith('<')) return { kind: 'pages', urls: lines(trimmed) }
  let root: XmlElement | null
  try {
    ;({ root } = parseXml(trimmed))
  } catch (error) {
    const { line } = error as { line?: number }
    const above = text.slice(0, text.length - trimmed.length).split('\n').length - 1
    const place = line === undefined ? '' : ` at line ${line + above}`
    throw new SitemapError(`invalid XML${place}`)
  }
  const { namespace, name } = nameOf(root, NO_PREFIXES)
  const kinds = { sitemapindex: ['index', 'sitemap'], urlset: ['pages', 'url'] } as const
  const kind = Object.entries(kinds).find(([each]) => name === each)?.[1]
  if (root === null || kind === undefined) {
    const got = printable(root?.name ?? '')
    throw new SitemapError(`expected <urlset> or <sitemapindex>, got <${got}>`)
  }
  const prefixes = prefixesIn(root, NO_PREFIXES)
  const urls = childrenOf(root, prefixes, { namespace, name: kind[1] })
    .flatMap((item) =>
      childrenOf(item.element, item.prefixes, { namespace, name: 'loc' }).slice(0, 1),
    )
    .map(({ element }) => element.text.trim())
  return { kind: kind[0], urls }
}

/** The namespace of the protocol. A root element without any namespace is accepted as well. */
const PROTOCOL = 'http://www.sitemaps.org/schemas/sitemap/0.9'

/** The namespace of a prefix, of which "" is the default one. */
type Prefixes = (prefix: string) => string | undefined

const NO_PREFIXES: Prefixes = () => undefined

/** Two names are equal if namespace and local name are (https://www.w3.org/TR/xml-names/#ns-qualnames). */
interface Name {
  readonly namespace: string
  readonly name: string
}

/** Copies nothing: a sitemap may have many prefixes, and many elements with one more. */
function prefixesIn({ attributes }: XmlElement, outer: Prefixes): Prefixes {
  return (prefix) => attributes[prefix === '' ? 'xmlns' : `xmlns:${prefix}`] ?? outer(prefix)
}

/** An undeclared prefix is treated as a namespace of its own. */
function nameOf(element: XmlElement | null, outer: Prefixes): Name {
  if (element === null) return { namespace: '', name: '' }
  const [name = '', prefix = ''] = element.name.split(':').toReversed()
  return { namespace: prefixesIn(element, outer)(prefix) ?? prefix, name }
}

/** The children with this name. Elements of extensions, such as image:loc, are ignored. */
function childrenOf(parent: XmlElement, prefixes: Prefixes, { namespace, name }: Name) {
  return parent.children.flatMap((element) => {
    if (!(element instanceof XmlElement)) return []
    const own = nameOf(element, prefixes)
    const isWanted =
      own.name === name && (own.namespace === namespace || own.namespace === PROTOCOL)
    return isWanted ? [{ element, prefixes: prefixesIn(element, prefixes) }] : []
  })
}

/** The plain text format of the protocol: one address per line. */
function lines(text: string): string[] {
  const urls = text
    .split(/\r?\n/)
    .map((line) => line.trim())
    .filter((line) => line !== '')
  if (urls.some((line) => /^https?:\/\//i.test(line) && URL.canParse(line))) return urls
  throw new SitemapError('expected XML or one address per line')
}
