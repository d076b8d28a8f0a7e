// The passages that an answer was made from, as its header `Link` names them (RFC 8288).

/** @typedef {{ url: string, title: string }} Cite */

const param = /;\s*([^\s=;,"]+)(?:\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;,"]*)))?/g
const link = new RegExp(`<([^<>]*)>((?:\\s*${param.source})*)`, 'g')

/**
 * The links whose relation is `cite`, in their order: a text refers to the first as [1]. One whose
 * address is not of the web has an empty `url`, so that the others keep their numbers.
 *
 * @param {string | null} header
 * @returns {Cite[]}
 */
export function citesIn(header) {
  return [...(header ?? '').matchAll(link)].flatMap(([, target = '', rest = '']) => {
    /** @type {Map<string, string>} */
    const params = new Map()
    for (const [, name = '', quoted, token = ''] of rest.matchAll(param)) {
      const value = quoted?.replaceAll(/\\(.)/g, '$1') ?? token
      // The first of a name counts.
      params.set(name.toLowerCase(), params.get(name.toLowerCase()) ?? value)
    }
    if (!/(^|\s)cite(\s|$)/i.test(params.get('rel') ?? '')) return []
    const url = webAddress(target.trim())
    const title = extended(params.get('title*')) || params.get('title')?.trim() || url
    return [{ url, title }]
  })
}

/** @param {string} text */
function webAddress(text) {
  try {
    const { protocol, href } = new URL(text)
    return /^https?:$/.test(protocol) ? href : ''
  } catch {
    return ''
  }
}

/** A value such as `UTF-8'en'caf%C3%A9` (RFC 8187); "" if it cannot be read. */
function extended(value = '') {
  const [, text = ''] = /^utf-8'[^']*'(.*)$/i.exec(value) ?? []
  try {
    return decodeURIComponent(text).trim()
  } catch {
    return ''
  }
}
