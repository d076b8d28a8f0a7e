// Reads what a site says that it has: sitemaps and indexes of sitemaps (sitemaps.org), as XML or as
// plain lines, gzipped or not. Bounded in time, bytes, number and depth; judges no page.
import { gunzipSync } from 'node:zlib'
import { parseXml, XmlElement } from '@rgrove/parse-xml'
import { type Fetch, printable } from './gateway.ts'
import { decodeText } from './text.ts'

export interface Sitemap {
  /** Where the sitemap was found, after redirects: the site's. */
  readonly origin: string
  /** Addresses of pages as they are written there, each once. */
  readonly pages: readonly string[]
  readonly skipped: readonly Skipped[]
  /** Sitemaps of an index that could not be read: their pages are missing. */
  readonly unread: readonly Skipped[]
}

export interface Skipped {
  readonly url: string
  readonly reason: string
}

export interface SitemapLimits {
  /** Indexes within indexes. */
  readonly depth: number
  readonly sitemaps: number
  readonly pages: number
  /** Of all of them together, unpacked. */
  readonly bytes: number
  /** For each of them. */
  readonly ms: number
}

/** Of pages and bytes as much as the protocol allows one sitemap. */
export const LIMITS: SitemapLimits = {
  depth: 3,
  sitemaps: 1000,
  pages: 50_000,
  bytes: 52_428_800,
  ms: 30_000,
}

interface Found {
  readonly kind: 'index' | 'pages'
  /** As they are written there. */
  readonly urls: readonly string[]
}

/**
 * @throws Error where the first sitemap cannot be read, or where there is more of something than the
 * limits allow: half a list would look like a whole one
 */
export async function readSitemap(
  url: string,
  fetch: Fetch,
  limits: SitemapLimits = LIMITS,
): Promise<Sitemap> {
  const pages = new Set<string>()
  const skipped: Skipped[] = []
  const unread: Skipped[] = []
  const seen = new Set<string>([url])
  const rest = [{ url, depth: 0 }]
  let origin = ''
  let bytes = 0
  for (let next = rest.shift(); next !== undefined; next = rest.shift()) {
    const { url: current, depth } = next
    const cannot = (reason: string) => new Error(`Cannot read the sitemap ${current}: ${reason}`)
    const read = await readOne(current, fetch, limits, bytes).catch((error) => {
      const reason = error instanceof Refused ? error.message : 'no answer'
      if (depth === 0 || error instanceof Exceeded) throw cannot(reason)
      return reason
    })
    if (typeof read === 'string') {
      unread.push({ url: current, reason: read })
      continue
    }
    const { base, size, found } = read
    bytes += size
    origin ||= base.origin
    if (base.origin !== origin) {
      skipped.push({ url: current, reason: `a sitemap of another origin than ${origin}` })
      continue
    }
    const isIndex = found.kind === 'index'
    if (isIndex && depth === limits.depth) {
      throw cannot(`more than ${limits.depth} indexes in one another`)
    }
    for (const written of found.urls) {
      const fault = faultOf(written, base, isIndex ? origin : null)
      if (fault !== null) skipped.push({ url: printable(written) || current, reason: fault })
      else if (!isIndex) pages.add(written)
      else if (!seen.has(written)) {
        seen.add(written)
        rest.push({ url: written, depth: depth + 1 })
      }
    }
    if (pages.size > limits.pages) throw cannot(`more than ${limits.pages} pages in all`)
    if (seen.size > limits.sitemaps) throw cannot(`more than ${limits.sitemaps} sitemaps in all`)
  }
  return { origin, pages: [...pages], skipped, unread }
}

/**
 * What is wrong with an address in a sitemap; null: nothing.
 *
 * @param origin of the site, for a sitemap: it is read from nowhere else
 */
function faultOf(written: string, base: URL, origin: string | null): string | null {
  if (written === '') return 'a <loc> in it is empty'
  if (!URL.canParse(written)) {
    const whole = URL.canParse(written, base.href) ? new URL(written, base).href : null
    return whole === null
      ? 'it is no address'
      : `it is relative, and a sitemap needs whole addresses; write ${printable(whole)}`
  }
  if (origin === null || new URL(written).origin === origin) return null
  return `a sitemap of another origin than ${origin}`
}

/** A reason that is written to be read. */
class Refused extends Error {}

/** There is more of something than the limits allow. */
class Exceeded extends Refused {}

/**
 * @param before bytes of the sitemaps before
 * @throws Refused, and what a broken connection throws
 */
async function readOne(url: string, fetch: Fetch, limits: SitemapLimits, before: number) {
  const response = await fetch(new Request(url, { signal: AbortSignal.timeout(limits.ms) }))
  if (response.status !== 200) {
    await response.body?.cancel()
    throw new Refused(`the site answers ${response.status}`)
  }
  const tooLarge = new Exceeded(`more than ${limits.bytes} bytes in all`)
  const left = limits.bytes - before
  const parts: Uint8Array[] = []
  let size = 0
  for await (const part of response.body ?? []) {
    size += part.length
    if (size > left) throw tooLarge
    parts.push(part)
  }
  const packed = Buffer.concat(parts)
  const bytes = isGzip(packed) ? unpack(packed, left, tooLarge) : packed
  return { base: new URL(response.url || url), size: bytes.length, found: found(textOf(bytes)) }
}

function textOf(bytes: Uint8Array): string {
  try {
    return decodeText(bytes)
  } catch (error) {
    throw new Refused(error instanceof Error ? error.message : 'it is no text')
  }
}

const isGzip = (bytes: Uint8Array) => bytes[0] === 0x1f && bytes[1] === 0x8b

function unpack(packed: Uint8Array, maxOutputLength: number, tooLarge: Refused): Uint8Array {
  try {
    return gunzipSync(packed, { maxOutputLength })
  } catch (error) {
    const { code } = error as { code?: string }
    throw code === 'ERR_BUFFER_TOO_LARGE' ? tooLarge : new Refused('its gzip is broken')
  }
}

function found(text: string): Found {
  // Templates leave empty lines before the declaration, which XML does not allow.
  const trimmed = text.trimStart()
  if (!trimmed.startsWith('<')) return { kind: 'pages', urls: lines(trimmed) }
  let root: XmlElement | null
  try {
    ;({ root } = parseXml(trimmed))
  } catch (error) {
    const { line } = error as { line?: number }
    const above = text.slice(0, text.length - trimmed.length).split('\n').length - 1
    const place = line === undefined ? '' : `, see its line ${line + above}`
    throw new Refused(`it is no well-formed XML${place}`)
  }
  const { namespace, name } = nameOf(root, NO_PREFIXES)
  const kinds = { sitemapindex: ['index', 'sitemap'], urlset: ['pages', 'url'] } as const
  const kind = Object.entries(kinds).find(([each]) => name === each)?.[1]
  if (root === null || kind === undefined) {
    const got = printable(root?.name ?? '')
    throw new Refused(`expected <urlset> or <sitemapindex>, got <${got}>`)
  }
  const prefixes = prefixesIn(root, NO_PREFIXES)
  const urls = childrenOf(root, prefixes, { namespace, name: kind[1] })
    .flatMap((item) =>
      childrenOf(item.element, item.prefixes, { namespace, name: 'loc' }).slice(0, 1),
    )
    .map(({ element }) => element.text.trim())
  return { kind: kind[0], urls }
}

/** Of its elements; those of a root without a namespace are read, too. */
const PROTOCOL = 'http://www.sitemaps.org/schemas/sitemap/0.9'

/** The namespaces that prefixes stand for; "" is the prefix of names without one. */
type Prefixes = ReadonlyMap<string, string>

const NO_PREFIXES: Prefixes = new Map()

/** Two names are the same if namespace and local name are; the prefix does not count (Namespaces, 6). */
interface Name {
  readonly namespace: string
  readonly name: string
}

function prefixesIn({ attributes }: XmlElement, outer: Prefixes): Prefixes {
  const own = Object.entries(attributes).flatMap(([name, value]) => {
    const [, prefix] = /^xmlns(?::(.*))?$/.exec(name) ?? ['', null]
    return prefix === null ? [] : [[prefix ?? '', value] as const]
  })
  return own.length === 0 ? outer : new Map([...outer, ...own])
}

/** A prefix that is bound to nothing is a namespace of its own. */
function nameOf(element: XmlElement | null, outer: Prefixes): Name {
  if (element === null) return { namespace: '', name: '' }
  const [name = '', prefix = ''] = element.name.split(':').toReversed()
  return { namespace: prefixesIn(element, outer).get(prefix) ?? prefix, name }
}

/** Others are of extensions, such as image:loc. */
function childrenOf(parent: XmlElement, prefixes: Prefixes, { namespace, name }: Name) {
  return parent.children.flatMap((element) => {
    if (!(element instanceof XmlElement)) return []
    const own = nameOf(element, prefixes)
    const isWanted =
      own.name === name && (own.namespace === namespace || own.namespace === PROTOCOL)
    return isWanted ? [{ element, prefixes: prefixesIn(element, prefixes) }] : []
  })
}

/** The protocol's text form: one address in each line. */
function lines(text: string): string[] {
  const given = text
    .split(/\r?\n/)
    .map((line) => line.trim())
    .filter((line) => line !== '')
  if (given.some((line) => /^https?:\/\//i.test(line) && URL.canParse(line))) return given
  throw new Refused('expected XML, or one address in each line')
}
