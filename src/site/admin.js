// The dashboard page: asks for the operator's token, shows figures, pauses and purges. Keeps the token
// in this tab's sessionStorage and nothing else; names and numbers are only ever set as text.
import { advice } from './advice.js'
import { draw, keepSized } from './charts.js'
import { at, button, input, say, select } from './elements.js'
import { bars, byName, latency, ranges, stacked, totals } from './figures.js'
import { duration } from './source.js'

/**
 * @typedef {{ tokens_per_day: number, spent: number, reserved: number, above_reservations?: number,
 *   usd_per_day: number, usd_spent: number, paused_until: number | null }} Budget
 * @typedef {{ at: number, request_id: string, upstream: string, model: string, code: string,
 *   hint: string | null }} FailedAttempt
 * @typedef {{ origin: string, count: number, last: number }} RefusedOrigin
 * @typedef {{ now: number, budget: Budget, hours: import('./figures.js').Hour[],
 *   failures: FailedAttempt[], refused_origins: RefusedOrigin[] }} Usage
 * @typedef {{ status: string, warnings?: string[], faults?: { path: string, message: string }[] }} Health
 */

const TOKEN = 'edge-completions.operator-token'
const REFRESH_MS = 60_000

const dialog = /** @type {HTMLDialogElement} */ (at('confirm'))

const whole = new Intl.NumberFormat(undefined, { maximumFractionDigits: 0 })
const short = new Intl.NumberFormat(undefined, { notation: 'compact', maximumFractionDigits: 1 })
const percent = new Intl.NumberFormat(undefined, { style: 'percent', maximumFractionDigits: 1 })
const dollars = new Intl.NumberFormat('en-US', {
  style: 'currency',
  currency: 'USD',
  // A page of text may cost a hundredth of a cent.
  maximumFractionDigits: 4,
})
const clock = new Intl.DateTimeFormat(undefined, { timeStyle: 'medium' })
const moment = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'short' })

let token = sessionStorage.getItem(TOKEN) ?? ''
/** The newest question; answers to older ones are not shown. */
let asked = 0

/** A refusal of the Worker, or no answer at all. */
class Failure extends Error {
  /** @param {string} message @param {string} code @param {number | null} [retryAfter] */
  constructor(message, code, retryAfter = null) {
    super(message)
    this.code = code
    this.retryAfter = retryAfter
  }
}

/**
 * @param {string} path
 * @param {unknown} [body] of a POST
 */
async function ask(path, body) {
  const response = await fetch(path, {
    cache: 'no-store',
    headers: { authorization: `Bearer ${token}` },
    ...(body === undefined ? {} : { method: 'POST', body: JSON.stringify(body) }),
  }).catch(() => {
    throw new Failure('Cannot reach the Worker', 'network')
  })
  const answer = await response.json().catch(() => null)
  if (response.ok || path === '/health') return answer
  const { message = 'Cannot read the answer', code = 'bad_answer' } = answer?.error ?? {}
  throw new Failure(message, code, Number(response.headers.get('retry-after')) || null)
}

/** Shows one of the page's states. @param {'sign-in' | 'loading' | 'problem' | 'dashboard'} state */
function show(state) {
  for (const id of ['sign-in', 'loading', 'problem', 'dashboard']) at(id).hidden = id !== state
}

/** @param {string} problem "" when there was none yet */
function askForToken(problem) {
  token = ''
  sessionStorage.removeItem(TOKEN)
  show('sign-in')
  say('sign-in-problem', problem)
  at('sign-in-problem').hidden = problem === ''
  input('token').value = ''
  input('token').focus()
}

const rangeOf = () =>
  /** @type {24 | 168 | 720} */ (
    Number(document.querySelector('[name=range]:checked')?.getAttribute('value'))
  )

async function load() {
  asked += 1
  const mine = asked
  const range = rangeOf()
  const first = at('dashboard').hidden
  if (first) show('loading')
  at('dashboard').ariaBusy = 'true'
  try {
    const [usage, health] = await Promise.all([ask(`/admin/usage?hours=${range}`), ask('/health')])
    if (first) await loadNames()
    if (mine !== asked) return
    sessionStorage.setItem(TOKEN, token)
    show('dashboard')
    showUsage(usage, range)
    showHealth(health)
  } catch (error) {
    if (mine === asked) fail(/** @type {Error} */ (error))
  } finally {
    at('dashboard').ariaBusy = 'false'
  }
}

/** @param {Error} error */
function fail(error) {
  const { message, code = '', retryAfter = null } = /** @type {Failure} */ (error)
  if (code === 'operator_token_invalid') {
    askForToken(`This token is not the operator’s. ${advice(code, null)}`)
    return
  }
  show('problem')
  say('problem-text', `${message}.`)
  say('problem-advice', advice(code, retryAfter))
}

/** What there is to purge. */
async function loadNames() {
  const [prompts, models] = await Promise.all([ask('/v1/prompts'), ask('/v1/models')])
  /** @param {string} id @param {{ data: { id: string }[] }} list */
  const fill = (id, { data }) =>
    select(id).replaceChildren(...data.map((one) => new Option(one.id)))
  fill('purge-prompt-id', prompts)
  fill('purge-model-id', models)
  at('purge-prompt-option').hidden = prompts.data.length === 0
}

/** @param {Usage} usage @param {24 | 168 | 720} range */
function showUsage({ now, budget, hours, failures, refused_origins }, range) {
  say('as-of', `As of ${clock.format(now * 1000)}`)
  showBudget(budget, now)
  const sums = totals(hours)
  say('ratio', sums.ratio === null ? '–' : percent.format(sums.ratio))
  const { hits, collapsed, misses } = sums
  const parts = `${whole.format(hits)} of the cache, ${whole.format(collapsed)} joined`
  say('ratio-note', `${parts}, ${whole.format(misses)} calls`)
  say('saved', short.format(sums.tokensSaved))
  say('saved-note', `${short.format(sums.tokensSpent)} spent`)
  const money = sums.usd + sums.usdSaved > 0
  at('usd-note').hidden = !money
  if (money) {
    say('usd-note', `${dollars.format(sums.usdSaved)} saved, ${dollars.format(sums.usd)} spent`)
  }
  say('requests', whole.format(sums.requests))
  say('requests-note', `in ${range === 24 ? '24 hours' : `${range / 24} days`}`)
  say('failed', whole.format(sums.failed))
  say(
    'failed-note',
    sums.requests === 0
      ? 'of no requests'
      : `${percent.format(sums.failed / sums.requests)} of all`,
  )
  at('empty').hidden = hours.length > 0
  at('figures').hidden = hours.length === 0
  showTable('codes', byName(hours, 'errors'), ['Code', 'Count'], 'No errors in this range.')
  showTable(
    'prompts',
    byName(hours, 'prompts'),
    ['Prompt', 'Requests'],
    'No locked prompt was used.',
  )
  showTable('models', byName(hours, 'models'), ['Model', 'Requests'], 'No model was asked for.')
  if (hours.length > 0) showCharts({ now, hours }, range)
  showFailures(failures)
  showRefused(refused_origins)
}

const SHOWN_FAILURES = 5

/** @param {FailedAttempt[]} failures */
function showFailures(failures) {
  if (failures.length === 0) {
    sayNone('failures', 'No attempt at an upstream has failed.')
    return
  }
  const [first, rest] = [failures.slice(0, SHOWN_FAILURES), failures.slice(SHOWN_FAILURES)]
  at('failures').replaceChildren(attempts(first))
  if (rest.length === 0) return
  const more = at('failures').appendChild(document.createElement('details'))
  more.appendChild(document.createElement('summary')).textContent = `${rest.length} more`
  more.append(attempts(rest))
}

/** @param {FailedAttempt[]} failures */
function attempts(failures) {
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
  showRows('refused', ['Origin', 'Requests', 'Last'], rows, 'No page was refused today.')
  // Pages without an origin cannot be allowed.
  const pages = refused.map(({ origin }) => origin).filter((origin) => origin !== 'null')
  at('refused-advice').hidden = pages.length === 0
  say(
    'refused-setting',
    `origins = [${pages
      .slice(0, 3)
      .map((one) => JSON.stringify(one))
      .join(', ')}]`,
  )
}

/** @param {Pick<Usage, 'now' | 'hours'>} usage @param {24 | 168 | 720} range */
function showCharts({ now, hours }, range) {
  const all = bars(hours, range, ranges[range], now)
  const { times, cached, shared, upstream, refused, spent, saved } = all
  const traffic = [cached, shared, upstream, refused]
  draw(at('traffic-chart'), {
    kind: 'bars',
    times,
    series: stacked(traffic),
    colours: [1, 2, 3, 4],
    format: short.format,
  })
  const heads = ['From', 'Cache', 'Joined', 'Model', 'Refused']
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
 * The numbers of a chart in words and as a table, for those who cannot see it.
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
  const label = `${title}: ${rows.length} bars or points with a value, the highest ${whole.format(top)}`
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

/** @param {string} id @param {[string, number][]} counts @param {string[]} heads @param {string} none */
function showTable(id, counts, heads, none) {
  const rows = counts.slice(0, SHOWN_NAMES).map(([name, n]) => [name, whole.format(n)])
  showRows(id, heads, rows, none)
}

/** @param {string} id @param {string[]} heads @param {string[][]} rows @param {string} none */
function showRows(id, heads, rows, none) {
  if (rows.length === 0) sayNone(id, none)
  else at(id).replaceChildren(table(heads, rows))
}

/** @param {string} id @param {string} none */
function sayNone(id, none) {
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
  const limit = usd_per_day > 0 ? ` of ${dollars.format(usd_per_day)}` : ''
  const usd = usd_spent > 0 || limit !== '' ? `, ${dollars.format(usd_spent)}${limit}` : ''
  const resets = duration(DAY_S - (now % DAY_S))
  say('spent', whole.format(spent))
  say('of-budget', `of ${whole.format(tokens_per_day)} tokens${usd}; begins anew in ${resets}`)
  at('above').hidden = above_reservations === 0
  say(
    'above',
    `${percent.format(above_reservations / Math.max(1, spent))} of it is above what its calls had reserved (usage_above_reservation in the log)`,
  )
  /** @param {number} tokens */
  const share = (tokens) =>
    `${(100 * Math.min(1, tokens / Math.max(1, tokens_per_day))).toFixed(2)}%`
  at('meter-spent').style.width = share(spent)
  at('meter-reserved').style.width = share(reserved)
  const words = [
    `${whole.format(spent)} spent`,
    `${whole.format(reserved)} reserved`,
    `${whole.format(left)} left`,
  ]
  at('meter').ariaLabel = words.join(', ')
  for (const [i, name] of ['spent', 'reserved', 'left'].entries()) {
    say(`legend-${name}`, words[i] ?? '')
  }
  const paused = paused_until !== null && paused_until > now
  at('paused').hidden = !paused
  if (paused) {
    const forEver = paused_until - now > 366 * DAY_S
    say(
      'paused',
      forEver ? 'Paused until you resume' : `Paused until ${moment.format(paused_until * 1000)}`,
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
  say('health-badge', word)
  at('health-badge').className = `badge ${look}`
  const words = [...warnings, ...faults.map(({ path, message }) => `${path}: ${message}`)]
  const list = document.createElement(words.length === 0 ? 'p' : 'ul')
  if (words.length === 0) {
    list.className = 'quiet'
    list.textContent = 'Configured, with nothing to warn of.'
  }
  for (const text of words) list.appendChild(document.createElement('li')).textContent = text
  const box = document.createElement('div')
  box.className = words.length === 0 ? '' : `notice ${look}`
  box.append(list)
  at('health').replaceChildren(box)
}

const FOR_EVER_S = 4_102_444_800

/** @param {number | null} until */
async function pause(until) {
  try {
    await ask('/admin/pause', { until })
    await load()
    button(until === null ? 'pause' : 'resume').focus()
  } catch (error) {
    fail(/** @type {Error} */ (error))
  }
}

/** When the pause that is chosen ends. */
function pauseEnd() {
  const now = Math.floor(Date.now() / 1000)
  const which = select('pause-for').value
  if (which === 'ever') return FOR_EVER_S
  return which === 'hour' ? now + 3600 : now - (now % DAY_S) + DAY_S
}

/** What the form of the purge says. */
function purgeTarget() {
  const which = document.querySelector('[name=purge]:checked')?.getAttribute('value')
  if (which === 'prompt_id') {
    const id = select('purge-prompt-id').value
    return { body: { prompt_id: id }, words: `every answer to the locked prompt “${id}”` }
  }
  if (which === 'model') {
    const id = select('purge-model-id').value
    return { body: { model: id }, words: `every answer of the model “${id}”` }
  }
  return { body: { all: true }, words: 'every remembered answer' }
}

/** @param {SubmitEvent} event */
function confirmPurge(event) {
  event.preventDefault()
  const { words } = purgeTarget()
  say('purged', '')
  say('confirm-title', `Forget ${words}?`)
  say(
    'confirm-text',
    'This cannot be undone. The next visitors’ requests ask the model again, and spend. It is so everywhere within cache.memory_seconds + 60 s.',
  )
  dialog.showModal()
  button('cancel').focus()
}

async function purge() {
  dialog.close()
  const { body, words } = purgeTarget()
  say('purged', 'Purging…')
  try {
    await ask('/admin/purge', body)
    say('purged', `Forgotten: ${words}.`)
  } catch (error) {
    const { message, code, retryAfter } = /** @type {Failure} */ (error)
    if (code === 'operator_token_invalid') fail(/** @type {Failure} */ (error))
    else say('purged', `${message}. ${advice(code, retryAfter)}`)
  }
}

at('sign-in-form').addEventListener('submit', (event) => {
  event.preventDefault()
  token = input('token').value.trim()
  // No header holds other characters, and no such token could be right.
  if (/^[\x21-\x7e]+$/.test(token)) load()
  else askForToken('A token has no spaces and only ASCII characters.')
})
button('sign-out').addEventListener('click', () => askForToken(''))
button('refresh').addEventListener('click', load)
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

if (token === '') askForToken('')
else load()
