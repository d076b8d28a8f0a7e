// The dashboard page: signs in with the operator's token, shows figures, pauses and purges. Stores only
// the token, in sessionStorage. Inserts names and numbers as text only.
import { advice, sentence } from './advice.js'
import { draw, keepSized } from './charts.js'
import { addressesIn, pageVariables, stateOf } from './coverage.js'
import { at, button, input, select, setText } from './dom.js'
import { bars, byName, csv, isFailure, latency, ranges, stacked, totals } from './figures.js'
import { TOKEN } from './prices.js'
import { duration } from './source.js'

/**
 * @typedef {{ tokens_per_day: number, spent: number, reserved: number, above_reservations?: number,
 *   usd_per_day: number, usd_spent: number, paused_until: number | null }} Budget
 * @typedef {{ at: number, request_id: string, upstream: string, model: string, code: string,
 *   hint: string | null }} FailedAttempt
 * @typedef {{ origin: string, count: number, last: number }} RefusedOrigin
 * @typedef {{ day: string, tokens: number, usd: number, requests: number, hits: number }} Day
 * @typedef {{ now: number, budget: Budget, days: Day[], hours: import('./figures.js').Hour[],
 *   failures: FailedAttempt[], refused_origins: RefusedOrigin[] }} Usage
 * @typedef {{ status: string, warnings?: string[], faults?: { path: string, message: string }[] }} Health
 */

const REFRESH_MS = 60_000

const dialog = /** @type {HTMLDialogElement} */ (at('confirm'))

const whole = new Intl.NumberFormat(undefined, { maximumFractionDigits: 0 })
const short = new Intl.NumberFormat(undefined, { notation: 'compact', maximumFractionDigits: 1 })
const percent = new Intl.NumberFormat(undefined, { style: 'percent', maximumFractionDigits: 1 })
const dollars = new Intl.NumberFormat('en-US', {
  style: 'currency',
  currency: 'USD',
  // An answer may cost a hundredth of a cent.
  maximumFractionDigits: 4,
})
const clock = new Intl.DateTimeFormat(undefined, { timeStyle: 'medium' })
const moment = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'short' })

let token = sessionStorage.getItem(TOKEN) ?? ''
/** The hours that are shown. @type {import('./figures.js').Hour[]} */
let shownHours = []
/** The page variable of each locked prompt that has one. @type {Map<string, string>} */
let pagePrompts = new Map()
/** The number of the latest load; results of earlier ones are discarded. */
let loads = 0
/** The number of the latest check of pages; earlier ones end. */
let checks = 0

/** An error response of the Worker, or a failed connection. */
class RequestError extends Error {
  /** @param {string} message @param {string} code @param {number | null} [retryAfter] */
  constructor(message, code, retryAfter = null) {
    super(message)
    this.code = code
    this.retryAfter = retryAfter
  }
}

/**
 * @param {string} path
 * @param {unknown} [body] sends a POST
 */
async function request(path, body) {
  const response = await fetch(path, {
    cache: 'no-store',
    headers: { authorization: `Bearer ${token}` },
    ...(body === undefined ? {} : { method: 'POST', body: JSON.stringify(body) }),
  }).catch(() => {
    throw new RequestError('Could not reach the Worker.', 'network')
  })
  const answer = await response.json().catch(() => null)
  if (response.ok || path === '/health') return answer
  const unreadable = 'The response is not from the Worker.'
  const { message = unreadable, code = 'bad_answer' } = answer?.error ?? {}
  throw new RequestError(message, code, Number(response.headers.get('retry-after')) || null)
}

/** Shows one state of the page. @param {'sign-in' | 'loading' | 'problem' | 'dashboard'} state */
function show(state) {
  for (const id of ['sign-in', 'loading', 'problem', 'dashboard']) at(id).hidden = id !== state
}

/** @param {string} problem "" without an error */
function showSignIn(problem) {
  token = ''
  loads += 1
  checks += 1
  at('page-list').replaceChildren()
  setText('checked', '')
  sessionStorage.removeItem(TOKEN)
  show('sign-in')
  setText('sign-in-problem', problem)
  at('sign-in-problem').hidden = problem === ''
  input('token').value = ''
  input('token').focus()
}

const rangeOf = () =>
  /** @type {24 | 168 | 720} */ (
    Number(document.querySelector('[name=range]:checked')?.getAttribute('value'))
  )

async function load() {
  loads += 1
  const mine = loads
  const range = rangeOf()
  const first = at('dashboard').hidden
  if (first) show('loading')
  at('dashboard').ariaBusy = 'true'
  try {
    const usagePath = `/admin/usage?hours=${range}`
    const [usage, health] = await Promise.all([request(usagePath), request('/health')])
    if (first) await Promise.all([loadNames(), loadSite()])
    if (mine !== loads) return
    sessionStorage.setItem(TOKEN, token)
    show('dashboard')
    showUsage(usage, range)
    showHealth(health)
  } catch (error) {
    if (mine === loads) fail(/** @type {Error} */ (error))
  } finally {
    at('dashboard').ariaBusy = 'false'
  }
}

/** @param {Error} error */
function fail(error) {
  // Signed out meanwhile.
  if (token === '') return
  const { message, code = '', retryAfter = null } = /** @type {RequestError} */ (error)
  if (code === 'operator_token_invalid') {
    showSignIn(`Wrong token. ${advice(code, null)}`)
    return
  }
  show('problem')
  setText('problem-text', sentence(message))
  setText('problem-advice', advice(code, retryAfter))
}

/** Fills the lists of prompts and models to purge. */
async function loadNames() {
  const [prompts, models] = await Promise.all([request('/v1/prompts'), request('/v1/models')])
  /** @param {string} id @param {{ data: { id: string }[] }} list */
  const fill = (id, { data }) =>
    select(id).replaceChildren(...data.map((one) => new Option(one.id)))
  fill('purge-prompt-id', prompts)
  fill('purge-model-id', models)
  at('purge-prompt-option').hidden = prompts.data.length === 0
  pagePrompts = pageVariables(prompts.data)
  at('coverage').hidden = pagePrompts.size === 0
  select('page-prompt').replaceChildren(...[...pagePrompts.keys()].map((id) => new Option(id)))
  select('page-prompt').hidden = pagePrompts.size === 1
}

/** Shows what is indexed. The list is long, so it is not read again with the figures. */
async function loadSite() {
  /** @type {{ passages: number, indexed_at: number | null, data: unknown[] } | null} */
  let site = null
  let note = 'Index the pages of your site with npm run index.'
  try {
    site = await request('/admin/site')
  } catch (error) {
    const { message, code, retryAfter } = /** @type {RequestError} */ (error)
    note = `${sentence(message)} ${advice(code, retryAfter)}`
  }
  const seconds = site?.indexed_at ?? null
  setText('site-pages', site === null ? '–' : whole.format(site.data.length))
  setText('site-passages', site === null ? '–' : whole.format(site.passages))
  setText('site-indexed', seconds === null ? '–' : moment.format(seconds * 1000))
  setText('site-note', note)
  at('site-note').hidden = seconds !== null
}

/** @param {Usage} usage @param {24 | 168 | 720} range */
function showUsage({ now, budget, days, hours, failures, refused_origins }, range) {
  shownHours = hours
  setText('as-of', `As of ${clock.format(now * 1000)}`)
  showBudget(budget, now)
  const sums = totals(hours)
  setText('ratio', sums.ratio === null ? '–' : percent.format(sums.ratio))
  const { hits, collapsed, generated } = sums
  const parts = `${whole.format(hits)} cached, ${whole.format(collapsed)} shared`
  setText('ratio-note', `${parts}, ${whole.format(generated)} generated`)
  setText('saved', short.format(sums.tokensSaved))
  setText('saved-note', `${short.format(sums.tokensSpent)} spent`)
  showCosts(days, budget, now, sums)
  setText('requests', whole.format(sums.requests))
  setText('requests-note', `in ${range === 24 ? '24 hours' : `${range / 24} days`}`)
  setText('site-unanswered', whole.format(sums.unanswered))
  setText('failed', whole.format(sums.failed))
  setText('failed-note', `and ${whole.format(sums.refused)} refused requests`)
  at('empty').hidden = hours.length > 0
  at('figures').hidden = hours.length === 0
  const codes = byName(hours, 'errors')
  const heads = ['Code', 'Count']
  for (const [id, list, none] of /** @type {const} */ ([
    ['codes', codes.filter(([code]) => isFailure(code)), 'No failures in this range.'],
    ['visitor-codes', codes.filter(([code]) => !isFailure(code)), 'None in this range.'],
  ])) {
    showTable(id, list, heads, none, list.length)
  }
  showTable('origins', byName(hours, 'origins'), ['Origin', 'Requests'], 'No origin was seen.')
  showTable(
    'prompts',
    byName(hours, 'prompts'),
    ['Prompt', 'Requests'],
    'No locked prompt was used in this range.',
  )
  const noModels = 'No model was used in this range.'
  showTable('models', byName(hours, 'models'), ['Model', 'Requests'], noModels)
  if (hours.length > 0) showCharts({ now, hours }, range)
  showFailures(failures)
  showRefused(refused_origins)
}

/**
 * @param {Day[]} days @param {Budget} budget @param {number} now
 * @param {ReturnType<typeof totals>} sums of the range
 */
function showCosts(days, budget, now, sums) {
  /** @param {number} ago */
  const dayAgo = (ago) => new Date((now - ago * DAY_S) * 1000).toISOString().slice(0, 10)
  // The budget's figures are exact; those of the days may be a minute late.
  const today = { tokens: budget.spent, usd: budget.usd_spent }
  const before = days.filter(({ day }) => day !== dayAgo(0))
  const all = [today, ...before]
  const hasPrices =
    budget.usd_per_day + sums.usd + sums.usdSaved > 0 || all.some(({ usd }) => usd > 0)
  /** Dollars first, if any are known. @param {string} id @param {{ tokens: number, usd: number }[]} some */
  const showSum = (id, some) => {
    const tokens = short.format(some.reduce((sum, one) => sum + one.tokens, 0))
    const usd = dollars.format(some.reduce((sum, one) => sum + one.usd, 0))
    setText(id, hasPrices ? usd : tokens)
    setText(`${id}-note`, hasPrices ? `${tokens} tokens` : 'tokens')
  }
  showSum('today', [today])
  showSum(
    'yesterday',
    before.filter(({ day }) => day === dayAgo(1)),
  )
  showSum('thirty-days', all)
  showSum('saved-cost', [{ tokens: sums.tokensSaved, usd: sums.usdSaved }])
  at('no-prices').hidden = hasPrices
}

const SHOWN_FAILURES = 5

/** @param {FailedAttempt[]} failures */
function showFailures(failures) {
  if (failures.length === 0) {
    showEmpty('failures', 'No upstream call has failed recently.')
    return
  }
  const [first, rest] = [failures.slice(0, SHOWN_FAILURES), failures.slice(SHOWN_FAILURES)]
  at('failures').replaceChildren(attemptList(first))
  if (rest.length === 0) return
  const more = at('failures').appendChild(document.createElement('details'))
  more.appendChild(document.createElement('summary')).textContent = `${rest.length} more`
  more.append(attemptList(rest))
}

/** @param {FailedAttempt[]} failures */
function attemptList(failures) {
  const list = document.createElement('ul')
  list.className = 'attempts'
  for (const { at: seconds, upstream, model, code, hint, request_id } of failures) {
    const item = list.appendChild(document.createElement('li'))
    item.appendChild(document.createElement('code')).textContent = code
    if (hint) item.append(` ${hint}`)
    const note = item.appendChild(document.createElement('div'))
    note.className = 'quiet'
    note.textContent = `${moment.format(seconds * 1000)} · upstream ${upstream} · model ${model} · ${request_id}`
  }
  return list
}

/** @param {RefusedOrigin[]} refused */
function showRefused(refused) {
  const rows = refused.map(({ origin, count, last }) => [
    origin,
    whole.format(count),
    moment.format(last * 1000),
  ])
  showRows('refused', ['Origin', 'Requests', 'Last seen'], rows, 'No origin was refused today.')
  // The origin "null" cannot be allowed.
  const pages = refused.map(({ origin }) => origin).filter((origin) => origin !== 'null')
  at('refused-advice').hidden = pages.length === 0
  const shown = pages.slice(0, 3).map((one) => JSON.stringify(one))
  setText('refused-setting', shown.join(', '))
}

/** @param {Pick<Usage, 'now' | 'hours'>} usage @param {24 | 168 | 720} range */
function showCharts({ now, hours }, range) {
  const all = bars(hours, range, ranges[range], now)
  const { times, cached, shared, upstream, unanswered, spent, saved } = all
  const traffic = [cached, shared, upstream, unanswered]
  draw(at('traffic-chart'), {
    kind: 'bars',
    times,
    series: stacked(traffic),
    colours: [1, 2, 3, 4],
    format: short.format,
  })
  const heads = ['From', 'Cached', 'Shared', 'Generated', 'Refused or failed']
  describe('traffic', heads, times, traffic)
  draw(at('tokens-chart'), {
    kind: 'bars',
    times,
    series: stacked([spent, saved]),
    colours: [3, 1],
    format: short.format,
  })
  describe('tokens', ['From', 'Spent', 'Saved'], times, [spent, saved])
  const { p50, p95, ...hourly } = latency(hours, range, now)
  draw(at('latency-chart'), {
    kind: 'lines',
    times: hourly.times,
    series: [p50, p95],
    colours: [1, 3],
    format: (ms) => (ms < 1000 ? `${ms} ms` : `${ms / 1000} s`),
  })
  describe('latency', ['From', 'p50, ms', 'p95, ms'], hourly.times, [p50, p95])
}

/**
 * Describes a chart in its aria-label, and shows its numbers as a table.
 *
 * @param {string} name
 * @param {string[]} heads
 * @param {number[]} times
 * @param {(number | null)[][]} series
 */
function describe(name, heads, times, series) {
  const rows = times
    .map((time, i) => ({ time, values: series.map((list) => list[i] ?? null) }))
    .filter(({ values }) => values.some((value) => value))
  const title = at(`${name}-title`).textContent
  const top = Math.max(0, ...rows.flatMap(({ values }) => values.map((value) => value ?? 0)))
  const label = `${title}: ${rows.length} bars or points with a value, maximum ${whole.format(top)}`
  at(`${name}-chart`).ariaLabel = label
  const cells = rows.map(({ time, values }) => [
    moment.format(time * 1000),
    ...values.map((value) => (value === null ? '–' : whole.format(value))),
  ])
  at(`${name}-table`).replaceChildren(table(heads, cells))
}

/** @param {string[]} heads @param {string[][]} rows */
function table(heads, rows) {
  const whole = document.createElement('table')
  const head = whole.createTHead().insertRow()
  for (const text of heads) {
    const cell = document.createElement('th')
    cell.scope = 'col'
    cell.textContent = text
    head.append(cell)
  }
  const body = whole.createTBody()
  for (const [name = '', ...values] of rows) {
    const row = body.insertRow()
    const cell = document.createElement('th')
    cell.scope = 'row'
    cell.textContent = name
    row.append(cell)
    for (const value of values) row.insertCell().textContent = value
  }
  return whole
}

const SHOWN_NAMES = 8

/**
 * Shows names with their counts, and with what they cost if any of them did.
 *
 * @param {string} id
 * @param {ReturnType<typeof byName>} sums
 * @param {string[]} heads
 * @param {string} none
 * @param {number} [length]
 */
function showTable(id, sums, heads, none, length = SHOWN_NAMES) {
  const hasCosts = sums.some(([, , usd]) => usd > 0)
  const rows = sums.slice(0, length).map(([name, n, usd]) => {
    const cost = usd > 0 ? dollars.format(usd) : '–'
    return [name, whole.format(n), ...(hasCosts ? [cost] : [])]
  })
  showRows(id, hasCosts ? [...heads, 'USD'] : heads, rows, none)
}

/** @param {string} id @param {string[]} heads @param {string[][]} rows @param {string} none */
function showRows(id, heads, rows, none) {
  if (rows.length === 0) showEmpty(id, none)
  else at(id).replaceChildren(table(heads, rows))
}

/** @param {string} id @param {string} none */
function showEmpty(id, none) {
  const words = document.createElement('p')
  words.className = 'quiet'
  words.textContent = none
  at(id).replaceChildren(words)
}

const DAY_S = 86_400

/** @param {Budget} budget @param {number} now */
function showBudget(
  { tokens_per_day, spent, reserved, above_reservations = 0, usd_per_day, usd_spent, paused_until },
  now,
) {
  const left = Math.max(0, tokens_per_day - spent - reserved)
  const usd = `${dollars.format(usd_spent)} of ${dollars.format(usd_per_day)}`
  setText('resets', `resets in ${duration(DAY_S - (now % DAY_S))}`)
  setText('usd-caption', usd)
  setText('token-caption', `${whole.format(spent)} of ${whole.format(tokens_per_day)} tokens`)
  at('above').hidden = above_reservations === 0
  setText(
    'above',
    `${percent.format(above_reservations / Math.max(1, spent))} of the tokens exceed the reservations of their calls (usage_above_reservation in the log)`,
  )
  /** @param {number} tokens */
  const share = (tokens) =>
    `${(100 * Math.min(1, tokens / Math.max(1, tokens_per_day))).toFixed(2)}%`
  at('usd-gauge').hidden = !(usd_per_day > 0)
  at('usd-meter').ariaLabel = `${usd} spent`
  at('usd-meter-spent').style.width =
    `${100 * Math.min(1, usd_spent / Math.max(1e-9, usd_per_day))}%`
  at('meter-spent').style.width = share(spent)
  at('meter-reserved').style.width = share(reserved)
  const words = [
    `${whole.format(spent)} spent`,
    `${whole.format(reserved)} reserved`,
    `${whole.format(left)} left`,
  ]
  at('meter').ariaLabel = words.join(', ')
  for (const [i, name] of ['spent', 'reserved', 'left'].entries()) {
    setText(`legend-${name}`, words[i] ?? '')
  }
  const paused = paused_until !== null && paused_until > now
  at('paused').hidden = !paused
  if (paused) {
    const isIndefinite = paused_until - now > 366 * DAY_S
    setText(
      'paused',
      isIndefinite
        ? 'Paused until you resume'
        : `Paused until ${moment.format(paused_until * 1000)}`,
    )
  }
  button('resume').hidden = !paused
  button('pause').hidden = paused
  select('pause-for').hidden = paused
}

/** @param {Health} health */
function showHealth({ status, warnings = [], faults = [] }) {
  const [word, look] =
    status !== 'ok'
      ? ['Misconfigured', 'bad']
      : warnings.length > 0
        ? ['Warnings', 'warn']
        : ['Good', '']
  setText('health-badge', word)
  at('health-badge').className = `badge ${look}`
  const words = [...warnings, ...faults.map(({ path, message }) => `${path}: ${message}`)]
  at('health-card').hidden = words.length === 0
  const list = document.createElement('ul')
  for (const text of words) list.appendChild(document.createElement('li')).textContent = text
  at('health').className = `notice ${look}`
  at('health').replaceChildren(list)
}

/** The year 2100. */
const INDEFINITE_S = 4_102_444_800

/** @param {number | null} until */
async function pause(until) {
  try {
    await request('/admin/pause', { until })
    if (token === '') return
    await load()
    button(until === null ? 'pause' : 'resume').focus()
  } catch (error) {
    fail(/** @type {Error} */ (error))
  }
}

/** The end of the selected pause. */
function pauseEnd() {
  const now = Math.floor(Date.now() / 1000)
  const which = select('pause-for').value
  if (which === 'ever') return INDEFINITE_S
  return which === 'hour' ? now + 3600 : now - (now % DAY_S) + DAY_S
}

/** The request body and the description of what is selected for purging. */
function purgeTarget() {
  const which = document.querySelector('[name=purge]:checked')?.getAttribute('value')
  if (which === 'prompt_id') {
    const id = select('purge-prompt-id').value
    return { body: { prompt_id: id }, words: `all answers to the locked prompt “${id}”` }
  }
  if (which === 'model') {
    const id = select('purge-model-id').value
    return { body: { model: id }, words: `all answers of the model “${id}”` }
  }
  return { body: { all: true }, words: 'all cached answers' }
}

/** @param {SubmitEvent} event */
function confirmPurge(event) {
  event.preventDefault()
  const { words } = purgeTarget()
  setText('purged', '')
  setText('confirm-title', `Purge ${words}?`)
  setText(
    'confirm-text',
    'This cannot be undone. Purged answers are generated again when visitors request them, which spends tokens. For prompts with spend = "operator", visitors get no answer until you warm them again. The purge is complete worldwide after cache.memory_seconds + 60 s.',
  )
  dialog.showModal()
  button('cancel').focus()
}

async function purge() {
  dialog.close()
  const { body, words } = purgeTarget()
  setText('purged', 'Purging…')
  try {
    await request('/admin/purge', body)
    setText('purged', `Purged ${words}.`)
  } catch (error) {
    const { message, code, retryAfter } = /** @type {RequestError} */ (error)
    if (code === 'operator_token_invalid') fail(/** @type {RequestError} */ (error))
    else setText('purged', `${sentence(message)} ${advice(code, retryAfter)}`)
  }
}

/** Downloads the hours that are shown. */
function download() {
  const link = document.createElement('a')
  link.href = URL.createObjectURL(new Blob([csv(shownHours)], { type: 'text/csv' }))
  link.download = 'edge-completions.csv'
  link.click()
  URL.revokeObjectURL(link.href)
}

/** Lists the pages of the text with their states, one after another. */
async function checkPages() {
  checks += 1
  const mine = checks
  const promptId = select('page-prompt').value
  const variable = pagePrompts.get(promptId) ?? ''
  const pages = addressesIn(input('pages').value)
  const rows = table(
    ['Page', 'Summary', 'Actions'],
    pages.map((page) => [page, '…', '']),
  )
  at('page-list').replaceChildren(rows)
  for (const [i, page] of pages.entries()) {
    setText('checked', `${i} of ${pages.length}`)
    const [, state, actions] = rows.tBodies[0]?.rows[i]?.cells ?? []
    if (state === undefined || actions === undefined) return
    const prompt = { id: promptId, variables: { [variable]: page } }
    const check = async () => {
      state.textContent = await stateOf(prompt, token)
    }
    /** @param {string} name @param {string} path @param {unknown} body */
    const action = (name, path, body) => {
      const control = document.createElement('button')
      control.className = 'link'
      control.type = 'button'
      control.textContent = name
      control.ariaLabel = `${name} ${page}`
      control.addEventListener('click', async () => {
        state.textContent = '…'
        try {
          await request(path, body)
          await check()
        } catch (error) {
          state.textContent = sentence(/** @type {Error} */ (error).message)
        }
      })
      actions.append(control)
    }
    action('Warm', '/v1/completions', { prompt, stream: false })
    action('Purge', '/admin/purge', { page })
    await check()
    if (mine !== checks) return
  }
  setText(
    'checked',
    pages.length === 0 ? 'There is no address in the text.' : `${pages.length} checked`,
  )
}

at('sign-in-form').addEventListener('submit', (event) => {
  event.preventDefault()
  token = input('token').value.trim()
  // A header cannot contain other characters.
  if (/^[\x21-\x7e]+$/.test(token)) load()
  else showSignIn('A token contains only ASCII characters and no spaces.')
})
button('sign-out').addEventListener('click', () => showSignIn(''))
button('csv').addEventListener('click', download)
at('check-pages').addEventListener('submit', (event) => {
  event.preventDefault()
  checkPages()
})
button('refresh').addEventListener('click', () => {
  load()
  loadSite()
})
button('retry').addEventListener('click', load)
button('pause').addEventListener('click', () => pause(pauseEnd()))
button('resume').addEventListener('click', () => pause(null))
at('purge').addEventListener('submit', confirmPurge)
at('purge').addEventListener('change', ({ target }) => {
  const list = /** @type {HTMLElement} */ (target)
  if (list === at('purge-prompt-id')) input('purge-prompt').checked = true
  if (list === at('purge-model-id')) input('purge-model').checked = true
})
button('cancel').addEventListener('click', () => dialog.close())
button('confirmed').addEventListener('click', purge)
for (const radio of document.querySelectorAll('[name=range]')) {
  radio.addEventListener('change', load)
}
keepSized([at('traffic-chart'), at('latency-chart'), at('tokens-chart')])
setInterval(() => {
  if (!document.hidden && !at('dashboard').hidden && !dialog.open) load()
}, REFRESH_MS)

if (token === '') showSignIn('')
else load()
