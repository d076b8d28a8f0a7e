// May this URL be read for a visitor? Only pages of the owner's listed origins and paths, so that
// nobody makes the Worker fetch anything else. Pure: it compares, and fetches nothing.
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

/** What is in the way of reading it, as the end of a sentence; null: nothing is. */
export function refusalOf(url: URL, { origins, paths, own }: AddressOptions): string | null {
  if (url.username !== '' || url.password !== '') return 'a page is named without user and password'
  if (!origins.includes(url.origin)) return 'its origin is not one of "origins"'
  if (url.host === own.host) return 'it is on the host of this endpoint itself'
  if (isAddress(url.hostname) && !isLoopback(own.hostname)) {
    return 'a page is on a host with a name, not an address or this machine'
  }
  const path = plainPath(url.pathname)
  if (path === null || !paths.some((pattern) => matches(path, pattern))) {
    return 'its path is not one of the "paths" of this variable'
  }
  return null
}

/** A host that is no public name: the URL parser has spelled every IPv4 address with dots. */
function isAddress(hostname: string): boolean {
  const name = hostname.replace(/\.$/, '')
  return isLoopback(name) || name.startsWith('[') || /^\d+(\.\d+){3}$/.test(name)
}

/**
 * The path decoded once; null where two servers might read it as two different paths: encoded
 * slashes and dots, doubly encoded characters, empty segments. The URL parser has resolved "..".
 */
function plainPath(pathname: string): string | null {
  let path: string
  try {
    path = decodeURIComponent(pathname)
  } catch {
    return null
  }
  const slashes = (text: string) => text.split('/').length
  if (slashes(path) !== slashes(pathname)) return null
  return /[\\\p{Cc}]|%[0-9a-f]{2}|\/\/|\/\.{1,2}(\/|$)/iu.test(path) ? null : path
}

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
