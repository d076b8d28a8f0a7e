// Reads what a site says that it has: sitemaps and indexes of sitemaps (sitemaps.org), as XML or as
// plain lines, gzipped or not. Bounded in time, bytes, number and depth; judges no page.
import { gunzipSync } from 'node:zlib'
import { parseXml, XmlElement } from '@rgrove/parse-xml'
import { type Fetch, printable } from './gateway.ts'

export interface Sitemap {
  /** Where the sitemap was found, after redirects: the site's. */
  readonly origin: string
  /** Addresses of pages as they are written there, each once. */
  readonly pages: readonly string[]
  readonly skipped: readonly Skipped[]
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
  readonly urls: readonly string[]
}

/** @throws Error where any part of it cannot be read: half a list would look like a whole one */
export async function readSitemap(
  url: string,
  fetch: Fetch,
  limits: SitemapLimits = LIMITS,
): Promise<Sitemap> {
  const pages = new Set<string>()
  const skipped: Skipped[] = []
  const seen = new Set<string>([url])
  const rest = [{ url, depth: 0 }]
  let origin = ''
  let bytes = 0
  for (let next = rest.shift(); next !== undefined; next = rest.shift()) {
    const { url: current, depth } = next
    const cannot = (reason: string) => new Error(`Cannot read the sitemap ${current}: ${reason}`)
    const { text, from, size } = await receive(current, fetch, limits, bytes).catch((error) => {
      throw cannot(error instanceof Refused ? error.message : 'no answer')
    })
    bytes += size
    origin ||= from
    if (from !== origin) {
      skipped.push({ url: current, reason: `a sitemap of another origin than ${origin}` })
      continue
    }
    const { kind, urls } = found(text, cannot)
    if (kind === 'pages') {
      for (const page of urls) pages.add(page)
      if (pages.size > limits.pages) throw cannot(`more than ${limits.pages} pages in all`)
      continue
    }
    if (depth === limits.depth) throw cannot(`more than ${limits.depth} indexes in one another`)
    for (const each of urls) {
      if (seen.has(each)) continue
      seen.add(each)
      if (seen.size > limits.sitemaps) throw cannot(`more than ${limits.sitemaps} sitemaps in all`)
      if (URL.canParse(each) && new URL(each).origin === origin) {
        rest.push({ url: each, depth: depth + 1 })
      } else {
        skipped.push({ url: printable(each), reason: `a sitemap of another origin than ${origin}` })
      }
    }
  }
  return { origin, pages: [...pages], skipped }
}

/** A reason that is written to be read. */
class Refused extends Error {}

async function receive(url: string, fetch: Fetch, limits: SitemapLimits, before: number) {
  const response = await fetch(new Request(url, { signal: AbortSignal.timeout(limits.ms) }))
  if (response.status !== 200) {
    await response.body?.cancel()
    throw new Refused(`the site answers ${response.status}`)
  }
  const tooLarge = new Refused(`more than ${limits.bytes} bytes in all`)
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
  const from = new URL(response.url || url).origin
  try {
    return {
      text: new TextDecoder('utf-8', { fatal: true, ignoreBOM: false }).decode(bytes),
      from,
      size: bytes.length,
    }
  } catch {
    throw new Refused('it is no UTF-8')
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

function found(text: string, cannot: (reason: string) => Error): Found {
  if (!text.trimStart().startsWith('<')) return { kind: 'pages', urls: lines(text, cannot) }
  let root: XmlElement | null
  try {
    ;({ root } = parseXml(text))
  } catch (error) {
    const { line } = error as { line?: number }
    throw cannot(`it is no well-formed XML${line === undefined ? '' : `, see its line ${line}`}`)
  }
  const { name = '' } = root ?? {}
  // The protocol's elements have the root's prefix; others are of extensions, such as image:loc.
  const prefix = name.slice(0, name.indexOf(':') + 1)
  const kinds = { sitemapindex: ['index', 'sitemap'], urlset: ['pages', 'url'] } as const
  const kind = Object.entries(kinds).find(([root]) => name === prefix + root)?.[1]
  if (kind === undefined) {
    throw cannot(`expected <urlset> or <sitemapindex>, got <${printable(name)}>`)
  }
  const urls = childrenOf(root, prefix + kind[1])
    .flatMap((item) => childrenOf(item, `${prefix}loc`).slice(0, 1))
    .map((loc) => loc.text.trim())
  return { kind: kind[0], urls }
}

function childrenOf(element: XmlElement | null, name: string): XmlElement[] {
  return (element?.children ?? []).filter(
    (child) => child instanceof XmlElement && child.name === name,
  ) as XmlElement[]
}

/** The protocol's text form: one address in each line. */
function lines(text: string, cannot: (reason: string) => Error): string[] {
  const urls = text.split(/\r?\n/).map((line) => line.trim())
  const given = urls.filter((line) => line !== '')
  if (given.length > 0 && given.every((line) => URL.canParse(line))) return given
  throw cannot('expected XML, or one address in each line')
}
