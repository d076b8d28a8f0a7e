// The pages of the owner's site and whether each has a stored answer. Spends nothing.

/** @typedef {{ id: string, variables: Record<string, { from?: string }> }} LockedPrompt */

/** The page variable of each locked prompt that has one. @param {LockedPrompt[]} prompts */
export function pageVariables(prompts) {
  /** @type {Map<string, string>} */
  const names = new Map()
  for (const { id, variables } of prompts) {
    const [name] = Object.entries(variables).find(([, { from }]) => from === 'url') ?? []
    if (name !== undefined) names.set(id, name)
  }
  return names
}

/** The addresses in a sitemap or in a list, each once. @param {string} text */
export function addressesIn(text) {
  const isXml = text.includes('<loc>')
  const found = text.matchAll(isXml ? /<loc>\s*([^<\s]+)\s*<\/loc>/g : /(https?:\/\/\S+)/g)
  return [...new Set([...found].map(([, address = '']) => address.replaceAll('&amp;', '&')))]
}

/**
 * The state of a page's answer. The operator's request with only-if-cached reads the page, and finds only
 * an answer to what it contains now. Visitors get the last answer.
 *
 * @param {{ id: string, variables: Record<string, string> }} prompt
 * @param {string} token
 */
export async function stateOf({ id, variables }, token) {
  /** @param {string} query @param {RequestInit} [init] */
  const codeOf = async (query, init) => {
    const response = await fetch(`/v1/completions${query}`, { cache: 'no-store', ...init })
    return (await response.json()).error?.code ?? 'stored'
  }
  try {
    const current = await codeOf('', {
      method: 'POST',
      headers: { authorization: `Bearer ${token}`, 'cache-control': 'only-if-cached' },
      body: JSON.stringify({ prompt: { id, variables }, stream: false }),
    })
    if (current === 'stored') return 'Summarised'
    if (current !== 'not_cached') return current
    const fields = Object.entries(variables).map(([name, value]) => [`var.${name}`, value])
    const query = new URLSearchParams([['prompt_id', id], ['stream', 'false'], ...fields])
    return (await codeOf(`?${query}`)) === 'stored' ? 'Changed' : 'Missing'
  } catch {
    return 'No response'
  }
}
