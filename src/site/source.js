// Says where an answer came from, of its headers (Cache-Status, RFC 9211; Age). Pure.

/**
 * @typedef {object} Source
 * @property {'hit' | 'stale' | 'shared' | 'miss' | 'bypass' | 'unknown'} kind
 * @property {string} title
 * @property {string} detail
 * @property {number | null} ageSeconds
 * @property {number | null} ttlSeconds below 0: since when it is stale
 */

/** @type {Readonly<Record<string, string>>} */
const tiers = {
  memory: 'From this isolate’s memory. It cost nothing.',
  kv: 'From KV, Cloudflare’s storage. It cost nothing.',
  flight: 'Of another visitor’s call that has just ended. It cost nothing.',
}

/**
 * @param {Headers} headers
 * @returns {Source}
 */
export function sourceOf(headers) {
  const [, ...parts] = (headers.get('cache-status') ?? '').split(';').map((part) => part.trim())
  const words = new Map(
    parts.map((part) => {
      const at = part.indexOf('=')
      return at === -1 ? [part, ''] : [part.slice(0, at), part.slice(at + 1)]
    }),
  )
  const age = headers.get('age')
  const ttl = words.get('ttl')
  const times = {
    ageSeconds: age === null ? null : Number(age),
    ttlSeconds: ttl === undefined ? null : Number(ttl),
  }
  const tier = words.get('detail') ?? ''
  if (words.has('hit') && tier === 'stale') {
    return {
      kind: 'stale',
      title: 'Hit, stale',
      detail: 'An older answer, while a new one is made.',
      ...times,
    }
  }
  if (words.has('hit') && tier === 'previous') {
    const detail = 'The last answer, from before the prompt or its model was changed.'
    return { kind: 'stale', title: 'Hit, previous', detail, ...times }
  }
  if (words.has('hit')) {
    return { kind: 'hit', title: `Hit in ${tier}`, detail: tiers[tier] ?? '', ...times }
  }
  if (words.has('collapsed')) {
    const detail = 'Someone was asking the same: one call for both.'
    return { kind: 'shared', title: 'Joined', detail, ...times }
  }
  switch (words.get('fwd')) {
    case 'miss': {
      const detail = words.has('stored')
        ? 'The model wrote it. It is remembered now.'
        : 'The model wrote it.'
      return { kind: 'miss', title: 'Miss', detail, ...times }
    }
    case 'request':
      return { kind: 'miss', title: 'Made anew', detail: 'The operator asked for that.', ...times }
    case 'bypass':
      return { kind: 'bypass', title: 'Not cached', detail: 'Such answers are not kept.', ...times }
    default:
      return { kind: 'unknown', title: 'Unknown', detail: 'The answer does not say.', ...times }
  }
}

/** @param {number} seconds */
export function duration(seconds) {
  const units = /** @type {const} */ ([
    [86_400, 'd'],
    [3600, 'h'],
    [60, 'min'],
  ])
  const unit = units.find(([size]) => Math.abs(seconds) >= size)
  return unit === undefined ? `${seconds} s` : `${Math.round(seconds / unit[0])} ${unit[1]}`
}
