// May this URL be read for a visitor, and which page does it name? Only pages of the owner's listed
// origins and paths, so that nobody makes the Worker fetch anything else. Pure: it compares, and
// fetches nothing.
import { isLoopback } from '../http/cors.ts'

export interface AddressOptions {
  /** `scheme://host[:port]` each; "*" allows no page. */
  readonly origins: readonly string[]
  /** Of the variable: `*` stands for anything, "/" too. Matched against the decoded path. */
  readonly paths: readonly string[]
  /** Where the Worker itself was called. */
  readonly own: URL
}

/** Longer ones name no page. */
const MAX_CHARS = 2048

/**
 * An absolute http(s) URL as visitors may spell it; null for anything else. Query and fragment are
 * dropped: a page is named by its origin and path, or every `?utm_source=…` would be one more page.
 */
export function readAddress(text: string): URL | null {
  // White space and "\" are mended silently by URL parsers, each in its own way.
  if (text.length > MAX_CHARS || /[\s\\\p{Cc}]/u.test(text)) return null
  if (!/^https?:\/\/[^/]/i.test(text) || !URL.canParse(text)) return null
  const url = new URL(text)
  url.pathname = plainlySpelled(url.pathname)
  url.search = ''
  url.hash = ''
  return url
}

/** One spelling of what is one path by definition (RFC 3986, 6.2.2), or each were one more page. */
function plainlySpelled(pathname: string): string {
  // Of a broken code nothing is mended: such a path is refused.
  if (/%(?![\da-f]{2})/i.test(pathname)) return pathname
  return pathname.replaceAll(/%[\da-f]{2}/gi, (code) => {
    const character = String.fromCharCode(Number.parseInt(code.slice(1), 16))
    return /[\w.~-]/.test(character) ? character : code.toUpperCase()
  })
}

/**
 * The name of the page at an address. Servers and site generators give one page several addresses:
 * `/x`, `/x/`, `/x/index.html`, `/x/index.htm` and `/x.html` have one name, and so has whatever
 * these rules lead to one after another, such as `/x/index`.
 */
export function pageAt({ origin, pathname }: URL): string {
  return origin + (bareOf(plainlySpelled(pathname)) || '/')
}

const ENDING = /(?:\/|\/index(?:\.html?)?|(?<=[^/])\.html)$/

/** A path without what does not tell two pages apart; the start page's is empty. */
function bareOf(pathname: string): string {
  let bare = pathname
  while (ENDING.test(bare)) bare = bare.replace(ENDING, '')
  return bare
}

/** What is in the way of fetching this address, as the end of a sentence; null: nothing is. */
export function refusalOf(url: URL, options: AddressOptions): string | null {
  return (
    hostRefusal(url, options) ?? (isListed([plainPath(url.pathname)], options) ? null : NOT_LISTED)
  )
}

/**
 * What is in the way of finding an answer about the page at this address; null: nothing is. A page
 * is found at each of its addresses where one of them is listed. It is fetched only at an address
 * that is listed itself, or `paths = ["/*.html"]` would make any path of the site one to be fetched.
 */
export function nameRefusalOf(url: URL, options: AddressOptions): string | null {
  const path = plainPath(url.pathname)
  const paths = path === null ? [] : [path, ...spellingsOf(bareOf(path))]
  return hostRefusal(url, options) ?? (isListed(paths, options) ? null : NOT_LISTED)
}

/** The same for what a redirect leads to: another address of the page that was asked for will do. */
export function redirectRefusalOf(from: URL, to: URL, options: AddressOptions): string | null {
  if (pageAt(from) !== pageAt(to) || plainPath(to.pathname) === null) return refusalOf(to, options)
  return hostRefusal(to, options)
}

const NOT_LISTED = 'its path is not one of the "paths" of this variable'

function hostRefusal(url: URL, { origins, own }: AddressOptions): string | null {
  if (url.username !== '' || url.password !== '') return 'a page is named without user and password'
  if (!origins.includes(url.origin)) return 'its origin is not one of "origins"'
  if (url.host === own.host) return 'it is on the host of this endpoint itself'
  if (isAddress(url.hostname) && !isLoopback(own.hostname)) {
    return 'a page is on a host with a name, not an address or this machine'
  }
  return null
}

/** A host that is no public name: the URL parser has spelled every IPv4 address with dots. */
function isAddress(hostname: string): boolean {
  const name = hostname.replace(/\.$/, '')
  return isLoopback(name) || name.startsWith('[') || /^\d+(\.\d+){3}$/.test(name)
}

function spellingsOf(bare: string): string[] {
  const folder = [`${bare}/`, `${bare}/index.html`, `${bare}/index.htm`]
  return bare === '' ? folder : [bare, `${bare}.html`, ...folder]
}

function isListed(spellings: readonly (string | null)[], { paths }: AddressOptions): boolean {
  return spellings.some((path) => path !== null && paths.some((pattern) => matches(path, pattern)))
}

/**
 * The path decoded once; null where some server might read it as another path. The URL parser has
 * resolved "..". Refused is what servers, proxies and file systems are known to decode once more,
 * fold or drop: encoded slashes and dots, doubly encoded characters, path parameters (`..;/`, which
 * Java servers cut off), empty segments, segments that begin with dots, compatibility forms ("．．",
 * "⁄") and characters that cannot be seen.
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

/** Fraction slash, division slash, set minus, and the reverse and big solidus: best-fit "/" and "\". */
const LOOKS_LIKE_SLASH = /[\u2044\u2215\u2216\u29f5\u29f8]/
const UNSEEN = /\p{Default_Ignorable_Code_Point}/gu
/** After a dot at the beginning of a segment a name must come: `/.well-known` is one. */
const AMBIGUOUS = /[\\;\p{Cc}]|%u?[\da-f]{2}|\/\/|\/\s*\.(?![\p{L}\p{N}])/iu

const slashes = (text: string) => text.split('/').length

/** Each piece at its first place after the one before: no pattern takes longer than its path. */
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
