// The playground page: sends one prompt or conversation at a time through client.js, and shows the
// answer, where it came from, what it cites, and the code of the call. Searches the owner's site. Inserts model output as text only. Each request
// is in the fragment of the address, which browsers do not send: links and the Back button return to it.
import { advice, sentence } from './advice.js'
import { createClient } from './client.js'
import { Conversation } from './conversation.js'
import { at, button, input, select, setText, tabs } from './dom.js'
import { search, showCites } from './passages.js'
import { costOf, loadPrices } from './prices.js'
import { snippets } from './snippets.js'
import { duration, sourceOf } from './source.js'

/**
 * @typedef {{ max_chars?: number, values?: string[], from?: string }} Variable
 * @typedef {{ id: string, variables: Record<string, Variable>, visitor_may_set: string[] }} LockedPrompt
 * @typedef {{ data: { id: string, owned_by: string }[] }} Models
 * @typedef {{ info: Record<string, unknown>, components: { schemas: { CompletionRequest:
 *   { properties: { max_tokens: { maximum: number } } } } } }} OpenApi
 * @typedef {import('./client.js').Prompt} Prompt
 * @typedef {import('./client.js').TextStream} TextStream
 * @typedef {import('./client.js').Completion} Completion
 */

const FREE = ''
const endpoint = location.origin

/** @type {LockedPrompt[]} */
let prompts = []
/** @type {string[]} */
let models = []
/** The locked prompts that take a conversation. @type {string[]} */
let chatPrompts = []
let mayWrite = true
let isChat = false
const conversation = new Conversation()
let sitekey = ''
/** @type {import('./prices.js').Prices | null} */
let prices = null
/**
 * The last response: its status and headers, the time until they arrived, and the completion of a JSON
 * body.
 *
 * @type {{ status: number, headers: Headers, ms: number, completion: Promise<Completion | null> } | null}
 */
let last = null
/** @type {AbortController | null} */
let running = null
let client = createClient({ endpoint, fetch: recordedFetch })
/** The time that each generated answer took, by its request. @type {Map<string, number>} */
const generatedMs = new Map()

/** Records the last response. @type {typeof fetch} */
async function recordedFetch(url, init) {
  const startedAt = performance.now()
  const response = await fetch(url, init)
  const { status, headers } = response
  const isJson = headers.get('content-type') === 'application/json'
  const body = isJson && response.ok ? response.clone().json() : Promise.resolve(null)
  const completion = body.catch(() => null)
  if (String(url).endsWith('/completions')) {
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
  // A locked prompt that takes a conversation is listed as a model of the owner.
  chatPrompts = data.filter(({ owned_by }) => owned_by === 'owner').map(({ id }) => id)
  models = data.map(({ id }) => id).filter((id) => !chatPrompts.includes(id))
  prompts = locked.data
  mayWrite = info['x-free-prompts'] !== false
  const choices = prompts
    .map(({ id }) => id)
    .filter((id) => !chatPrompts.includes(id))
    .map(named)
  if (mayWrite) choices.unshift([FREE, 'Your own text'])
  fill(select('prompt-id'), choices)
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

/** Keeps what is selected. @param {HTMLSelectElement} list @param {string[][]} options pairs of value and text */
function fill(list, options) {
  const selected = list.value
  const all = options.map(
    ([value = '', text = '']) => new Option(text, value, false, value === selected),
  )
  list.replaceChildren(...all)
}

/** A locked prompt as an option. @param {string} id */
const named = (id) => [id, `${id} (locked)`]

/** The selected locked prompt. */
function selectedPrompt() {
  const id = select(isChat ? 'model' : 'prompt-id').value
  const isOffered = chatPrompts.includes(id) === isChat
  return (isOffered && prompts.find((prompt) => prompt.id === id)) || null
}

/** Shows what belongs to completions, to conversations, or to the search. @param {string} tab */
function showMode(tab) {
  const isSearch = tab === 'tab-search'
  for (const id of ['panel', 'code-card']) at(id).hidden = isSearch
  at('search-panel').hidden = !isSearch
  if (isSearch) {
    if (!location.hash.startsWith('#search')) history.replaceState(null, '', '#search')
    return
  }
  isChat = tab === 'tab-chat'
  const options = models.filter(() => mayWrite || !isChat).map((id) => [id, id])
  fill(select('model'), [...options, ...(isChat ? chatPrompts.map(named) : [])])
  at(isChat ? 'which' : 'locked').after(at('fields'))
  at(isChat ? 'composer' : 'request').append(at('actions'))
  for (const id of ['log', 'composer', 'new', 'retry', 'tab-usechat']) at(id).hidden = !isChat
  for (const id of ['written', 'stream-field']) at(id).hidden = isChat
  // Not if the address has the mode already: `restore` reads the rest of it.
  if (location.hash.startsWith('#chat') !== isChat || location.hash.startsWith('#search')) {
    history.replaceState(null, '', isChat ? '#chat' : location.pathname)
  }
  setText('answer-title', isChat ? 'Conversation' : 'Answer')
  reset()
  showFields()
  if (button('tab-usechat').ariaSelected === 'true' && !isChat) chooseCode('tab-client')
  else showCode()
}

/** @param {string} field */
function maySet(field) {
  const prompt = selectedPrompt()
  return prompt === null || prompt.visitor_may_set.includes(field)
}

/** In a conversation, a locked prompt is selected as a model. */
const mayNameModel = () => isChat || maySet('model')

/** @returns {NodeListOf<HTMLInputElement>} */
const fields = () => at('fields').querySelectorAll('[name]')

/** Shows what a visitor may set for the selected prompt, and choices between two or more. */
function showFields() {
  const prompt = selectedPrompt()
  at('which').hidden = isChat || select('prompt-id').length < 2
  at('free').hidden = isChat || prompt !== null
  at('system-field').hidden = !isChat || prompt !== null
  // Passages have no value of the visitor's.
  const variables = Object.entries(prompt?.variables ?? {}).filter(
    ([, { from }]) => from !== 'site',
  )
  at('locked').hidden = variables.length === 0
  at('model-field').hidden = !mayNameModel() || select('model').length < 2
  for (const { name, parentElement } of fields()) {
    const isOffered = maySet(name) && !(isChat && name === 'suffix')
    if (parentElement !== null) parentElement.hidden = !isOffered
  }
  at('options').hidden = at('options').querySelector('div > div:not([hidden])') === null
  at('variables').replaceChildren(...variables.map(([name, variable]) => field(name, variable)))
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

/**
 * The request body for the form: only the fields that differ from the endpoint's defaults.
 *
 * @param {string} [message] of a conversation
 */
function bodyOf(message = input('message').value.trim()) {
  const prompt = selectedPrompt()
  const filled = /** @type {NodeListOf<HTMLInputElement>} */ (
    at('variables').querySelectorAll('[data-variable]')
  )
  const variables = Object.fromEntries(
    [...filled].map(({ dataset, value }) => [dataset['variable'] ?? '', value]),
  )
  const given = filled.length === 0 ? {} : { variables }
  /** @type {Record<string, unknown>} */
  const body = {}
  const model = select('model').value
  if (mayNameModel() && model !== models[0] && model !== '') body['model'] = model
  if (isChat) {
    const system = at('system-field').hidden ? '' : input('system').value.trim()
    const turns = conversation.asked(message)
    body['messages'] = system === '' ? turns : [{ role: 'system', content: system }, ...turns]
    Object.assign(body, given)
  } else {
    body['prompt'] = prompt === null ? input('prompt').value : { id: prompt.id, ...given }
  }
  for (const { name, value, type, parentElement } of fields()) {
    if (parentElement?.hidden || value === '') continue
    body[name] = type === 'number' ? Number(value) : value
  }
  if (isChat || input('stream').checked) body['stream'] = true
  return body
}

/** The price of the model that a request is for. @param {Record<string, unknown>} body */
function priceOf({ model }) {
  const prompt = selectedPrompt()
  // In a conversation, "model" is the prompt.
  const named = prompt !== null && isChat ? undefined : model
  const own = named === undefined && prompt !== null ? prices?.prompts.get(prompt.id) : undefined
  return own === undefined ? prices?.models.get(String(named ?? models[0])) : own
}

/** The languages of the code, by tab. @type {Readonly<Record<string, keyof ReturnType<typeof snippets>>>} */
const languages = {
  'tab-client': 'client',
  'tab-fetch': 'fetch',
  'tab-curl': 'curl',
  'tab-openai': 'openai',
  'tab-python': 'python',
  'tab-page': 'page',
  'tab-usechat': 'useChat',
}
const chooseCode = tabs(Object.keys(languages), 'code', showCode)
const chooseMode = tabs(['tab-completion', 'tab-chat', 'tab-search'], 'panel', showMode)

function showCode(tab = at('code').getAttribute('aria-labelledby') ?? '') {
  const call = {
    endpoint,
    body: bodyOf(),
    defaultModel: models[0] ?? 'default',
    mayNameModel: mayNameModel(),
    sitekey,
  }
  setText('code', snippets(call)[languages[tab] ?? 'client'])
  setText('copied', '')
}

/**
 * @param {{ message: string, code?: string, retryAfter?: number | null }} error
 * @param {{ path: string, message: string }[]} [faults] of the configuration
 */
function showProblem({ message, code = '', retryAfter = null }, faults = []) {
  const box = at('problem')
  const name = document.createElement('code')
  name.textContent = code
  box.replaceChildren(paragraph(sentence(message), ' ', name))
  const what = advice(code, retryAfter)
  if (what !== '') box.append(paragraph(what))
  for (const { path, message } of faults) box.append(paragraph(`${path}: ${sentence(message)}`))
  box.hidden = false
}

/** @param {(string | Node)[]} content */
function paragraph(...content) {
  const element = document.createElement('p')
  element.append(...content)
  return element
}

const facts = /** @type {const} */ ([
  'first-byte',
  'total-time',
  'age',
  'fresh',
  'tokens-in',
  'tokens-out',
  'speed',
  'cost',
  'finish',
  'answered-by',
  'request-id',
])

/** Shows that nothing has been sent yet. */
function reset() {
  setText('status', '')
  clear(
    'Nothing sent yet',
    'An answer comes from the cache, another visitor’s request, or the model.',
  )
}

/** @param {string} title @param {string} [detail] */
function clear(title, detail = '') {
  last = null
  at('problem').hidden = true
  for (const id of ['sent-prompt', 'answer']) setText(id, '')
  for (const fact of facts) setText(fact, '–')
  at('cost-fact').hidden = true
  showCites(null)
  showSource('none', title, detail)
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

/** Shows what is known once the response headers have arrived, and returns the source of an answer. */
function showHead() {
  if (last === null) return null
  setText('first-byte', milliseconds(last.ms))
  setText('request-id', last.headers.get('x-request-id') ?? '–')
  if (last.status >= 400) return null
  const source = sourceOf(last.headers)
  const { kind, title, detail, ageSeconds, ttlSeconds } = source
  showSource(kind, title, detail)
  showCites(last.headers.get('link'))
  setText('age', ageSeconds === null ? 'new' : duration(ageSeconds))
  setText('fresh', ttlSeconds === null ? '–' : ttlSeconds < 0 ? 'stale' : duration(ttlSeconds))
  return source
}

/** @param {number} ms */
function milliseconds(ms) {
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(2)} s`
}

/** Sends the prompt, or the conversation: with the message, or as it was sent last. */
async function send({ again = false } = {}) {
  if (running !== null || button('send').disabled) return
  const body = bodyOf(again ? '' : undefined)
  const price = priceOf(body)
  const { prompt, messages, stream, ...fields } = body
  if (isChat && !again && input('message').value.trim() === '') return input('message').focus()
  running = new AbortController()
  const { signal } = running
  const options = { ...fields, signal }
  clear('Sending…')
  const address = new URL(fragment(), location.href).href
  if (!again && address !== location.href) history.pushState(null, '', address)
  if (isChat) begin(again)
  else {
    if (typeof prompt === 'string') setText('sent-prompt', prompt)
    at('response').scrollIntoView({ block: 'nearest' })
  }
  setRunning(true)
  const startedAt = performance.now()
  /** @type {Completion | null} */
  let completion = null
  try {
    const given = /** @type {Prompt} */ (prompt)
    const turns = /** @type {import('./client.js').Message[]} */ (messages)
    if (isChat) {
      completion = await show(client.chat(turns, { ...options, stream: true }), (text) =>
        conversation.append(text),
      )
    } else if (stream === true) {
      completion = await show(client.stream(given, options), (text) => at('answer').append(text))
    } else {
      setText('answer', await client.complete(given, options))
      completion = (await last?.completion) ?? null
    }
    const ms = performance.now() - startedAt
    const cost = costOf(price, completion?.usage)
    showCompletion(completion, JSON.stringify({ ...body, stream: false }), ms, cost)
    setText('status', 'Done')
  } catch (error) {
    showHead()
    if (signal.aborted) setText('status', 'Stopped')
    else {
      const status = last?.status ?? 0
      const detail = status === 0 ? 'There was no response.' : `The status was ${status}.`
      showSource('bad', 'Failed', status === 200 ? 'The answer broke off.' : detail)
      for (const id of ['age', 'fresh']) setText(id, '–')
      if (at('answer').textContent === '') setText('sent-prompt', '')
      setText('status', 'Failed')
      showProblem(/** @type {Error} */ (error))
    }
  } finally {
    setText('total-time', milliseconds(performance.now() - startedAt))
    running = null
    if (isChat) end(again)
    setRunning(false)
    showCode()
  }
}

/** Shows the message as a turn. @param {boolean} again */
function begin(again) {
  conversation.begin(conversation.asked(again ? '' : input('message').value.trim()))
  if (!again) input('message').value = ''
}

/** Keeps what has arrived. A message that was refused can be corrected. @param {boolean} again */
function end(again) {
  conversation.end()
  const isRefused = last?.status === 400 || last?.status === 413
  if (isRefused && !again) input('message').value = conversation.withdraw()
}

/** Shows an answer as it arrives. @param {TextStream} pieces @param {(text: string) => void} append */
async function show(pieces, append) {
  let isFirst = true
  for await (const text of pieces) {
    if (isFirst) showHead()
    isFirst = false
    append(text)
  }
  return pieces.completion
}

/**
 * Shows what is known once the answer is complete.
 *
 * @param {Completion | null} completion
 * @param {string} request the same for the same answer
 * @param {number} ms
 * @param {string} cost of generating it; "" if unknown
 */
function showCompletion(completion, request, ms, cost) {
  const { prompt_tokens = '–', completion_tokens = '–', total_tokens = 0 } = completion?.usage ?? {}
  const estimated = last?.headers.get('x-usage-estimated') === '1' ? '≈ ' : ''
  setText('tokens-in', `${estimated}${prompt_tokens}`)
  setText('tokens-out', `${estimated}${completion_tokens}`)
  setText('finish', completion?.choices[0]?.finish_reason ?? '–')
  setText('answered-by', completion?.model ?? '–')
  const source = showHead()
  if (source === null) return
  const { kind, title, detail } = source
  const isGenerated = kind === 'miss' || kind === 'bypass'
  at('cost-fact').hidden = cost === ''
  setText('cost', isGenerated ? `${estimated}${cost}` : '$0')
  if (isGenerated) {
    generatedMs.set(request, ms)
    const perSecond = (1000 * Number(completion_tokens)) / ms
    if (perSecond > 0) setText('speed', `${perSecond.toFixed(perSecond < 10 ? 1 : 0)} tokens/s`)
  } else if (total_tokens > 0) {
    const first = generatedMs.get(request)
    const times = first === undefined ? [ms] : [first, ms]
    const saved = `${estimated}${total_tokens} tokens${cost && ` and ${cost}`} saved`
    showSource(kind, `${times.map(milliseconds).join(' → ')}, ${saved}`, `${title}. ${detail}`)
  }
}

/** @param {boolean} isRunning */
function setRunning(isRunning) {
  const focused = document.activeElement
  for (const id of ['send', 'tab-completion', 'tab-chat', 'tab-search'])
    button(id).disabled = isRunning
  for (const id of ['new', 'retry']) button(id).disabled = isRunning || conversation.isEmpty
  button('stop').disabled = !isRunning
  // A button that is disabled loses the focus.
  if (focused?.matches('button:disabled')) button(isRunning ? 'stop' : 'send').focus()
  at(isChat ? 'log' : 'answer').ariaBusy = String(isRunning)
  if (isRunning) setText('status', 'Generating…')
}

for (const form of ['request', 'composer']) {
  at(form).addEventListener('submit', (event) => {
    event.preventDefault()
    send()
  })
  at(form).addEventListener('keydown', (event) => {
    if (event.key === 'Escape') running?.abort()
    if (event.key !== 'Enter' || !(event.ctrlKey || event.metaKey)) return
    event.preventDefault()
    send()
  })
  at(form).addEventListener('input', ({ target }) => {
    if (target === at('prompt-id') || (isChat && target === at('model'))) showFields()
    showCode()
  })
}
at('search').addEventListener('submit', (event) => {
  event.preventDefault()
  const query = input('query').value.trim()
  if (query === '') return input('query').focus()
  history.replaceState(null, '', `#search&${new URLSearchParams({ query })}`)
  search(query)
})

/**
 * The fields of the forms. Those of the variables depend on the others.
 *
 * @returns {NodeListOf<HTMLInputElement>}
 */
const controls = () => at('panel').querySelectorAll('select, textarea, input:not([type=checkbox])')

/** @param {HTMLInputElement | HTMLSelectElement} control */
const initial = (control) =>
  control instanceof HTMLSelectElement ? (control.options[0]?.value ?? '') : control.defaultValue

/** The address of this page with the fields that are not as at first. */
function fragment() {
  const params = [...controls()]
    .filter((control) => control.closest('[hidden]') === null && control.value !== initial(control))
    .map(({ id, value }) => [id, value])
  const fields = new URLSearchParams(params).toString()
  const parts = [isChat ? 'chat' : '', fields].filter(Boolean)
  return parts.length === 0 ? location.pathname : `#${parts.join('&')}`
}

/** Fills in the request of the address. */
function restore() {
  const { hash } = location
  const params = new URLSearchParams(hash.slice(1))
  if (params.has('search')) {
    chooseMode('tab-search')
    input('query').value = params.get('query') ?? ''
    if (input('query').value !== '') search(input('query').value)
    return
  }
  const startsWithChat = params.has('chat') && !at('tab-chat').hidden
  chooseMode(startsWithChat || select('prompt-id').length === 0 ? 'tab-chat' : 'tab-completion')
  // Which variables there are depends on the prompt.
  for (const pass of [['prompt-id', 'model'], null]) {
    for (const control of controls()) {
      if (pass !== null && !pass.includes(control.id)) continue
      control.value = params.get(control.id) ?? initial(control)
      if (control.value === '') control.value = initial(control)
    }
    if (pass !== null) showFields()
  }
  if (hash !== '') history.replaceState(null, '', hash)
  showCode()
}

// The skip link changes the fragment, too.
addEventListener('popstate', () => {
  if (running === null && location.hash !== '#main') restore()
})
button('share').addEventListener('click', async () => {
  history.replaceState(null, '', fragment())
  try {
    await navigator.clipboard.writeText(location.href)
    setText('shared', 'Copied')
  } catch {
    setText('shared', 'The link is in the address bar.')
  }
})
button('retry').addEventListener('click', () => send({ again: true }))
button('new').addEventListener('click', () => {
  conversation.clear()
  reset()
  setRunning(false)
  showCode()
  input('message').focus()
})
button('stop').addEventListener('click', () => running?.abort())
button('copy').addEventListener('click', async () => {
  try {
    await navigator.clipboard.writeText(at('code').textContent)
    setText('copied', 'Copied')
  } catch {
    getSelection()?.selectAllChildren(at('code'))
    setText('copied', 'Selected. Press Ctrl + C to copy.')
  }
})
// Not every browser lets the keyboard scroll what cannot be focused.
at('log').tabIndex = 0

loadPrices().then((found) => {
  prices = found
})
try {
  await load()
  at('tab-chat').hidden = !mayWrite && chatPrompts.length === 0
  at('tab-completion').hidden = select('prompt-id').length === 0
  restore()
} catch (error) {
  const problem = /** @type {Error & { code?: string }} */ (error)
  const isFaulty = problem.code === 'misconfigured'
  const health = isFaulty ? await fetch('/health').then((response) => response.json()) : {}
  showSource('bad', 'Not ready', '')
  showProblem(problem, health.faults)
  showCode()
}
