// Decides whether a visitor's URL may be fetched, and which page it names. Only pages on the
// owner's listed origins and paths are allowed, so that nobody can make the Worker fetch anything
// else.
import { isLoopback } from '../http/cors.ts'

export interface AddressOptions {
  /** `scheme://host[:port]` each; "*" does not allow any page. */
  readonly origins: readonly string[]
  /** Patterns for decoded paths; `*` matches any text, including "/". */
  readonly paths: readonly string[]
  /** The URL at which the Worker was called. */
  readonly own: URL
}

/** The longest address that is read. */
export const MAX_ADDRESS_CHARS = 2048

/**
 * Parses an absolute http(s) URL and normalises its path; null for anything else. Query and
 * fragment are dropped: they would make every `?utm_source=…` another page.
 */
export function readAddress(text: string): URL | null {
  // URL parsers silently fix white space and "\", and not all of them in the same way.
  if (text.length > MAX_ADDRESS_CHARS || /[\s\\\p{Cc}]/u.test(text)) return null
  if (!/^https?:\/\/[^/]/i.test(text) || !URL.canParse(text)) return null
  const url = new URL(text)
  url.pathname = normalPath(url.pathname)
  url.search = ''
  url.hash = ''
  return url
}

/**
 * Normalises the percent-encoding (RFC 3986, 6.2.2), so that equivalent paths name one page.
 *
 * @param plain the characters that are not encoded
 */
function normalPath(pathname: string, plain = UNRESERVED): string {
  // Leave a path with a malformed escape as it is: it is refused later.
  if (/%(?![\da-f]{2})/i.test(pathname)) return pathname
  return pathname.replaceAll(/%[\da-f]{2}/gi, (code) => {
    const character = String.fromCharCode(Number.parseInt(code.slice(1), 16))
    return plain.test(character) ? character : code.toUpperCase()
  })
}

const UNRESERVED = /[\w.~-]/
/**
 * Also the characters that browsers do not encode in paths, but many sitemaps do: `/@me` and
 * `/%40me`. In a name only: a few servers treat the two differently, so a page is fetched at the
 * address it was given by.
 */
const PLAIN_IN_NAMES = /[\w.~!$&'()*+,=:@|[\]-]/

/**
 * The canonical address of a page. Servers and site generators give one page several addresses:
 * `/x`, `/x/`, `/x/index.html`, `/x/index.htm` and `/x.html` share one. The rules are applied
 * repeatedly, so `/x/index` has the same.
 */
export function canonicalAddressOf({ origin, pathname }: URL): string {
  return origin + (bareOf(normalPath(pathname, PLAIN_IN_NAMES)) || '/')
}

const ENDING = /(?:\/|\/index(?:\.html?)?|(?<=[^/])\.html)$/

/** The path without such endings; empty for the start page. */
function bareOf(pathname: string): string {
  let bare = pathname
  while (ENDING.test(bare)) bare = bare.replace(ENDING, '')
  return bare
}

/** Why this address must not be fetched, as the end of a sentence; null if it may be. */
export function refusalOf(url: URL, options: AddressOptions): string | null {
  return hostRefusal(url, options) ?? pathRefusal([plainPath(url.pathname)], options)
}

/**
 * Why cached answers about the page at this address must not be returned; null if they may be. A
 * page can be looked up by any of its addresses if one of them is listed. To be fetched, an address
 * must be listed itself; otherwise `paths = ["/*.html"]` would allow fetching any path of the site.
 */
export function lookupRefusalOf(url: URL, options: AddressOptions): string | null {
  const path = plainPath(url.pathname)
  const paths = path === null ? [] : [path, ...spellingsOf(bareOf(path))]
  return hostRefusal(url, options) ?? pathRefusal(paths, options)
}

/** The same for the target of a redirect, which may also be another address of the same page. */
export function redirectRefusalOf(from: URL, to: URL, options: AddressOptions): string | null {
  const isSamePage =
    canonicalAddressOf(from) === canonicalAddressOf(to) && plainPath(to.pathname) !== null
  return isSamePage ? hostRefusal(to, options) : refusalOf(to, options)
}

function hostRefusal(url: URL, { origins, own }: AddressOptions): string | null {
  if (url.username !== '' || url.password !== '') return 'its URL has a user name or a password'
  if (!origins.includes(url.origin)) return `its origin ${url.origin} is not in "origins"`
  if (url.host === own.host) return 'it is on the host of this endpoint itself'
  if (isAddress(url.hostname) && !isLoopback(own.hostname)) {
    return 'its host is an IP address or localhost, expected a public host name'
  }
  return null
}

/** Whether a host is not a public name. The URL parser has rewritten IPv4 addresses with dots. */
function isAddress(hostname: string): boolean {
  const name = hostname.replace(/\.$/, '')
  return isLoopback(name) || name.startsWith('[') || /^\d+(\.\d+){3}$/.test(name)
}

function spellingsOf(bare: string): string[] {
  const folder = [`${bare}/`, `${bare}/index.html`, `${bare}/index.htm`]
  return bare === '' ? folder : [bare, `${bare}.html`, ...folder]
}

/** Null if one of these spellings of a path is listed. */
function pathRefusal(
  spellings: readonly (string | null)[],
  { paths }: AddressOptions,
): string | null {
  const isListed = spellings.some(
    (path) => path !== null && paths.some((pattern) => matches(path, pattern)),
  )
  return isListed ? null : 'its path is not one of the "paths" in CONFIG'
}

/**
 * The path, decoded once; null if some server might read it as another path. The URL parser has
 * already resolved "..". This refuses everything that servers, proxies and file systems are known
 * to decode again, fold or drop: encoded slashes and dots, doubly encoded characters, path
 * parameters (`..;/`, which Java servers cut off), empty segments, segments that begin with dots,
 * compatibility forms ("．．", "⁄") and invisible characters.
 */
function plainPath(pathname: string): string | null {
  let path: string
  try {
    path = decodeURIComponent(pathname)
  } catch {
    return null
  }
  if (LOOKS_LIKE_SLASH.test(path)) return null
  const folded = path.normalize('NFKC').replaceAll(UNSEEN, '')
  if (slashes(folded) !== slashes(pathname)) return null
  return AMBIGUOUS.test(folded) ? null : path
}

/** Fraction and division slash, set minus, reverse and big solidus: best-fit "/" and "\". */
const LOOKS_LIKE_SLASH = /[\u2044\u2215\u2216\u29f5\u29f8]/
const UNSEEN = /\p{Default_Ignorable_Code_Point}/gu
/** A segment may begin with a dot only if a letter or digit follows, as in `/.well-known`. */
const AMBIGUOUS = /[\\;\p{Cc}]|%u?[\da-f]{2}|\/\/|\/\s*\.(?![\p{L}\p{N}])/iu

const slashes = (text: string) => text.split('/').length

/** Matches each piece at its first position after the previous one, without backtracking. */
function matches(path: string, pattern: string): boolean {
  const [first = '', ...others] = pattern.split('*')
  const last = others.pop()
  if (last === undefined) return path === pattern
  if (!path.startsWith(first)) return false
  let at = first.length
  for (const piece of others) {
    const found = path.indexOf(piece, at)
    if (found === -1) return false
    at = found + piece.length
  }
  return path.length - last.length >= at && path.endsWith(last)
}
