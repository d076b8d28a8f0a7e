// What answers cost, for an operator who has signed in on the dashboard in this tab.

/** The entry of sessionStorage in which the dashboard stores the operator's token. */
export const TOKEN = 'edge-completions.operator-token'

/**
 * @typedef {{ input: number, output: number } | null} Price USD per million tokens
 * @typedef {{ models: Map<string, Price>, prompts: Map<string, Price> }} Prices
 */

/** The prices of GET /admin/usage; null without a token, or if they are unavailable. @returns {Promise<Prices | null>} */
export async function loadPrices() {
  try {
    const token = sessionStorage.getItem(TOKEN)
    if (token === null) return null
    const headers = { authorization: `Bearer ${token}` }
    const response = await fetch('/admin/usage?hours=1', { cache: 'no-store', headers })
    const { models, prompts } = (await response.json()).prices
    // Maps, because `prompts['constructor']` of a plain object is not undefined.
    return { models: new Map(Object.entries(models)), prompts: new Map(Object.entries(prompts)) }
  } catch {
    return null
  }
}

const dollars = new Intl.NumberFormat('en-US', {
  style: 'currency',
  currency: 'USD',
  // An answer may cost a thousandth of a cent.
  maximumSignificantDigits: 2,
})

/**
 * The cost of an answer, such as "$0.00021"; "" without a price.
 *
 * @param {Price | undefined} price
 * @param {{ prompt_tokens: number, completion_tokens: number } | null | undefined} usage
 */
export function costOf(price, usage) {
  if (!price || !usage) return ''
  const usd = (usage.prompt_tokens * price.input + usage.completion_tokens * price.output) / 1e6
  return usd > 0 ? dollars.format(usd) : ''
}
