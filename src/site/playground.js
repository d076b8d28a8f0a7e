// The playground page: sends one request at a time through client.js, and shows the answer, where it
// came from, and the code of the call. Inserts model output as text only. Stores nothing.
import { advice, sentence } from './advice.js'
import { createClient } from './client.js'
import { at, button, input, select, setText } from './elements.js'
import { snippets } from './snippets.js'
import { duration, sourceOf } from './source.js'

/**
 * @typedef {{ max_chars?: number, values?: string[], from?: string }} Variable
 * @typedef {{ id: string, variables: Record<string, Variable>, visitor_may_set: string[] }} LockedPrompt
 * @typedef {{ data: { id: string }[] }} Models
 * @typedef {{ info: Record<string, unknown>, components: { schemas: { CompletionRequest:
 *   { properties: { max_tokens: { maximum: number } } } } } }} OpenApi
 * @typedef {import('./client.js').Prompt} Prompt
 * @typedef {import('./client.js').Completion} Completion
 */

const FREE = ''
const endpoint = location.origin

/** @type {LockedPrompt[]} */
let prompts = []
/** @type {string[]} */
let models = []
let sitekey = ''
/**
 * The last response: its status and headers, the time until they arrived, and the completion of a JSON body.
 *
 * @type {{ status: number, headers: Headers, ms: number, completion: Promise<Completion | null> } | null}
 */
let last = null
/** @type {AbortController | null} */
let running = null
let client = createClient({ endpoint, fetch: recordedFetch })

/** Records the last response. @type {typeof fetch} */
async function recordedFetch(url, init) {
  const startedAt = performance.now()
  const response = await fetch(url, init)
  const { status, headers } = response
  const isJson = headers.get('content-type') === 'application/json'
  const body = isJson && response.ok ? response.clone().json() : Promise.resolve(null)
  const completion = body.catch(() => null)
  if (String(url).endsWith('/v1/completions')) {
    last = { status, headers, ms: performance.now() - startedAt, completion }
  }
  return response
}

/** @param {string} path */
async function get(path) {
  const response = await fetch(path, { cache: 'no-store' })
  const body = await response.json()
  if (!response.ok) throw Object.assign(new Error(body.error.message), body.error)
  return body
}

async function load() {
  /** @type {[Models, { data: LockedPrompt[] }, OpenApi]} */
  const [{ data }, locked, { info, components }] = await Promise.all([
    get('/v1/models'),
    get('/v1/prompts'),
    get('/openapi.json'),
  ])
  models = data.map(({ id }) => id)
  prompts = locked.data
  fill(
    select('model'),
    models.map((id) => [id, id]),
  )
  const choices = prompts.map(({ id }) => [id, `${id} (locked)`])
  if (info['x-free-prompts'] !== false) choices.unshift([FREE, 'Your own text'])
  fill(select('prompt-id'), choices)
  at('which').hidden = prompts.length === 0
  const { maximum } = components.schemas.CompletionRequest.properties.max_tokens
  input('max-tokens').max = String(maximum)
  input('max-tokens').placeholder = `up to ${maximum}`
  sitekey = String(info['x-turnstile-sitekey'] ?? '')
  if (sitekey !== '') {
    const turnstile = { sitekey, container: at('challenge') }
    client = createClient({ endpoint, turnstile, fetch: recordedFetch })
  }
  button('send').disabled = false
}

/** @param {HTMLSelectElement} list @param {string[][]} options pairs of value and text */
function fill(list, options) {
  list.replaceChildren(...options.map(([value = '', text = '']) => new Option(text, value)))
}

/** The selected locked prompt. */
function selectedPrompt() {
  return prompts.find(({ id }) => id === select('prompt-id').value) ?? null
}

/** Shows the fields that a visitor may set for the selected prompt. */
function showFields() {
  const prompt = selectedPrompt()
  at('free').hidden = prompt !== null
  at('locked').hidden = prompt === null || Object.keys(prompt.variables).length === 0
  /** @param {string} field */
  const may = (field) => prompt === null || prompt.visitor_may_set.includes(field)
  at('model-field').hidden = !may('model')
  at('max-tokens-field').hidden = !may('max_tokens')
  at('temperature-field').hidden = !may('temperature')
  at('variables').replaceChildren(
    ...Object.entries(prompt?.variables ?? {}).map(([name, variable]) => field(name, variable)),
  )
}

/** @param {string} name @param {Variable} variable */
function field(name, { values, max_chars, from }) {
  const box = document.createElement('div')
  const label = document.createElement('label')
  const control = document.createElement(values === undefined ? 'input' : 'select')
  label.htmlFor = control.id = `variable-${name}`
  label.textContent = from === 'url' ? `${name} (page URL)` : name
  control.dataset['variable'] = name
  if (control instanceof HTMLSelectElement)
    fill(
      control,
      (values ?? []).map((v) => [v, v]),
    )
  else if (max_chars !== undefined && from === undefined) control.maxLength = max_chars
  box.append(label, control)
  return box
}

/** The request body for the form: only the fields that differ from the endpoint's defaults. */
function bodyOf() {
  const prompt = selectedPrompt()
  /** @type {Record<string, unknown>} */
  const body = { prompt: input('prompt').value }
  if (prompt !== null) {
    const fields = [...at('variables').querySelectorAll('[data-variable]')]
    const variables = fields.map((control) => {
      const { dataset, value } = /** @type {HTMLInputElement} */ (control)
      return [dataset['variable'] ?? '', value]
    })
    body['prompt'] =
      variables.length === 0
        ? { id: prompt.id }
        : { id: prompt.id, variables: Object.fromEntries(variables) }
  }
  const model = select('model').value
  if (!at('model-field').hidden && model !== models[0] && model !== '') body['model'] = model
  for (const [id, name] of [
    ['max-tokens', 'max_tokens'],
    ['temperature', 'temperature'],
  ]) {
    const value = input(id ?? '').value
    if (!at(`${id}-field`).hidden && value !== '') body[name ?? ''] = Number(value)
  }
  if (input('stream').checked) body['stream'] = true
  return body
}

/** @type {Readonly<Record<string, 'client' | 'fetch' | 'curl' | 'openai'>>} */
const languages = {
  'tab-client': 'client',
  'tab-fetch': 'fetch',
  'tab-curl': 'curl',
  'tab-openai': 'openai',
}
const tabs = Object.keys(languages).map(button)

function showCode() {
  const call = {
    endpoint,
    body: bodyOf(),
    defaultModel: models[0] ?? 'default',
    mayNameModel: selectedPrompt() === null || !at('model-field').hidden,
    sitekey,
  }
  const tab = tabs.find((one) => one.ariaSelected === 'true')
  setText('code', snippets(call)[languages[tab?.id ?? ''] ?? 'client'])
  setText('copied', '')
}

/** @param {HTMLElement} tab */
function choose(tab) {
  for (const one of tabs) {
    one.ariaSelected = String(one === tab)
    one.tabIndex = one === tab ? 0 : -1
  }
  at('code').setAttribute('aria-labelledby', tab.id)
  showCode()
}

/** @param {KeyboardEvent} event */
function moveTab(event) {
  const index = tabs.indexOf(/** @type {HTMLButtonElement} */ (event.target))
  const { length } = tabs
  /** @type {Readonly<Record<string, number>>} */
  const moves = { ArrowRight: index + 1, ArrowLeft: index - 1 + length, Home: 0, End: length - 1 }
  const to = tabs[(moves[event.key] ?? -1) % length]
  if (to === undefined || !(event.key in moves)) return
  event.preventDefault()
  choose(to)
  to.focus()
}

/** @param {{ message: string, code?: string, retryAfter?: number | null }} error */
function showProblem({ message, code = '', retryAfter = null }) {
  const box = at('problem')
  const first = document.createElement('p')
  const name = document.createElement('code')
  name.textContent = code
  first.append(sentence(message), ' ', name)
  const second = document.createElement('p')
  second.textContent = advice(code, retryAfter)
  box.replaceChildren(first, ...(second.textContent === '' ? [] : [second]))
  box.hidden = false
}

const facts = /** @type {const} */ ([
  'first-byte',
  'total-time',
  'age',
  'fresh',
  'tokens-in',
  'tokens-out',
  'finish',
  'answered-by',
  'request-id',
])

function clear() {
  last = null
  at('problem').hidden = true
  setText('answer', '')
  for (const fact of facts) setText(fact, '–')
  showSource('none', 'Sending…', '')
}

/** @param {string} kind @param {string} title @param {string} detail */
function showSource(kind, title, detail) {
  const box = at('source')
  const strong = document.createElement('strong')
  const span = document.createElement('span')
  strong.textContent = title
  span.textContent = detail
  span.className = 'quiet'
  box.dataset['kind'] = kind
  box.replaceChildren(strong, span)
}

/** Shows what is known once the response headers have arrived. */
function showHead() {
  if (last === null) return
  const { kind, title, detail, ageSeconds, ttlSeconds } = sourceOf(last.headers, last.status)
  showSource(kind, title, detail)
  setText('first-byte', milliseconds(last.ms))
  const age = kind === 'none' ? '–' : 'new'
  setText('age', ageSeconds === null ? age : duration(ageSeconds))
  setText('fresh', ttlSeconds === null ? '–' : ttlSeconds < 0 ? 'stale' : duration(ttlSeconds))
  setText('request-id', last.headers.get('x-request-id') ?? '–')
}

/** @param {number} ms */
function milliseconds(ms) {
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(2)} s`
}

async function send() {
  if (running !== null || button('send').disabled) return
  const { prompt, stream, ...fields } = bodyOf()
  running = new AbortController()
  const { signal } = running
  clear()
  setRunning(true)
  const startedAt = performance.now()
  try {
    const input = /** @type {Prompt} */ (prompt)
    if (stream === true) await showStream(input, { ...fields, signal })
    else {
      setText('answer', await client.complete(input, { ...fields, signal }))
      showHead()
      showCompletion((await last?.completion) ?? null)
    }
    setText('status', 'Done')
  } catch (error) {
    showHead()
    if (signal.aborted) setText('status', 'Stopped')
    else {
      if (last === null) showSource('none', 'No response', '')
      setText('status', 'Failed')
      showProblem(/** @type {Error} */ (error))
    }
  } finally {
    setText('total-time', milliseconds(performance.now() - startedAt))
    running = null
    setRunning(false)
  }
}

/** @param {Prompt} prompt @param {import('./client.js').Options} options */
async function showStream(prompt, options) {
  const pieces = client.stream(prompt, options)
  for await (const text of pieces) {
    if (at('answer').textContent === '') showHead()
    at('answer').append(text)
  }
  showHead()
  showCompletion(pieces.completion)
}

/** Shows what is known once the answer is complete. @param {Completion | null} completion */
function showCompletion(completion) {
  const { prompt_tokens = '–', completion_tokens = '–' } = completion?.usage ?? {}
  const estimated = last?.headers.get('x-usage-estimated') === '1' ? '≈ ' : ''
  setText('tokens-in', `${estimated}${prompt_tokens}`)
  setText('tokens-out', `${estimated}${completion_tokens}`)
  setText('finish', completion?.choices[0]?.finish_reason ?? '–')
  setText('answered-by', completion?.model ?? '–')
}

/** @param {boolean} isRunning */
function setRunning(isRunning) {
  button('send').disabled = isRunning
  button('stop').disabled = !isRunning
  at('answer').ariaBusy = String(isRunning)
  if (isRunning) setText('status', 'Generating…')
}

at('request').addEventListener('submit', (event) => {
  event.preventDefault()
  send()
})
at('request').addEventListener('keydown', (event) => {
  if (event.key !== 'Enter' || !(event.ctrlKey || event.metaKey)) return
  event.preventDefault()
  send()
})
at('request').addEventListener('input', (event) => {
  if (event.target === at('prompt-id')) showFields()
  showCode()
})
button('stop').addEventListener('click', () => {
  running?.abort()
  button('send').focus()
})
button('copy').addEventListener('click', async () => {
  try {
    await navigator.clipboard.writeText(at('code').textContent)
    setText('copied', 'Copied')
  } catch {
    getSelection()?.selectAllChildren(at('code'))
    setText('copied', 'Selected. Press Ctrl + C to copy.')
  }
})
for (const tab of tabs) {
  tab.addEventListener('click', () => choose(tab))
  tab.addEventListener('keydown', moveTab)
}

try {
  await load()
  showFields()
} catch (error) {
  showProblem(/** @type {Error} */ (error))
}
showCode()
