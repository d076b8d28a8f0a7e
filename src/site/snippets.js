// The code of one call, for copying: with client.js, fetch, curl and the openai SDK. Every value is
// quoted by the rules of its language.

/**
 * @typedef {object} Call
 * @property {string} endpoint the Worker's origin
 * @property {Record<string, unknown>} body `prompt` and the fields that differ from the defaults
 * @property {string} defaultModel for the SDK, which requires a model
 * @property {boolean} mayNameModel false if the locked prompt does not accept a model
 * @property {string} sitekey of Turnstile; "" if no visitor token is needed
 */

/**
 * @param {Call} call
 * @returns {{ client: string, fetch: string, curl: string, openai: string }}
 */
export function snippets(call) {
  return { client: client(call), fetch: fetching(call), curl: curl(call), openai: openai(call) }
}

/** @param {Call} call */
function client({ endpoint, body, sitekey }) {
  const { prompt, stream, ...options } = body
  const name = stream === true ? 'stream' : 'complete'
  const imported = sitekey === '' ? name : 'createClient'
  const given = Object.keys(options).length === 0 ? '' : `, ${literal(options)}`
  const call = `${name}(${literal(prompt)}${given})`
  return lines(
    `import { ${imported} } from ${literal(`${endpoint}/client.js`)}`,
    '',
    sitekey === ''
      ? null
      : `const { ${name} } = createClient({ turnstile: { sitekey: ${literal(sitekey)} } })`,
    stream === true
      ? `for await (const text of ${call}) console.log(text)`
      : `console.log(await ${call})`,
  )
}

const TOKEN = "const token = '…' // from POST /v1/visitors; client.js fetches and renews it"

/** @param {Call} call */
function fetching({ endpoint, body, sitekey }) {
  const streamed = body['stream'] === true
  /** @type {Record<string, string | Raw>} */
  const headers = { 'Content-Type': 'text/plain' }
  if (streamed) headers['Accept'] = 'text/plain'
  if (sitekey !== '') headers['X-Visitor-Token'] = new Raw('token')
  return lines(
    sitekey === '' ? null : TOKEN,
    `const response = await fetch(${literal(`${endpoint}/v1/completions`)}, {`,
    "  method: 'POST',",
    `  headers: ${literal(headers, 2)},`,
    `  body: JSON.stringify(${literal(body, 2)}),`,
    '})',
    ...(streamed
      ? [
          'if (!response.ok) throw new Error((await response.json()).error.message)',
          'const reader = response.body.pipeThrough(new TextDecoderStream()).getReader()',
          'for (;;) {',
          '  const { done, value } = await reader.read()',
          '  if (done) break',
          '  console.log(value)',
          '}',
        ]
      : [
          'const { choices, error } = await response.json()',
          'console.log(error ? error.message : choices[0].text)',
        ]),
  )
}

/** @param {Call} call */
function curl({ endpoint, body, sitekey }) {
  const parts = [
    body['stream'] === true ? 'curl -N' : 'curl',
    shell(`${endpoint}/v1/completions`),
    ...(sitekey === '' ? [] : ['-H "X-Visitor-Token: $TOKEN"']),
    `--json ${shell(JSON.stringify(body))}`,
  ]
  const line = parts.join(' ')
  return line.length <= 90 ? line : parts.join(' \\\n  ')
}

/** @param {Call} call */
function openai({ endpoint, body, defaultModel, mayNameModel, sitekey }) {
  const named = mayNameModel ? { model: defaultModel, ...body } : body
  const create = `client.completions.create(${literal(named)})`
  return lines(
    "import OpenAI from 'openai'",
    '',
    sitekey === '' ? null : TOKEN,
    'const client = new OpenAI({',
    `  baseURL: ${literal(`${endpoint}/v1`)},`,
    sitekey === ''
      ? "  apiKey: 'none', // any value: the Worker adds the real key"
      : '  apiKey: token,',
    '  dangerouslyAllowBrowser: true,',
    '})',
    ...(body['stream'] === true
      ? [
          `const stream = await ${create}`,
          'for await (const { choices } of stream) console.log(choices[0]?.text)',
        ]
      : [`const { choices } = await ${create}`, 'console.log(choices[0].text)']),
  )
}

/** @param {(string | null)[]} all null entries are left out */
function lines(...all) {
  return all.filter((line) => line !== null).join('\n')
}

/** An identifier in the generated code, written without quotes. */
class Raw {
  /** @param {string} name */
  constructor(name) {
    this.name = name
  }
}

const WIDTH = 72

/**
 * A value as a JavaScript literal with single-quoted strings.
 *
 * @param {unknown} value
 * @param {number} [indent] of the line on which the literal begins
 * @returns {string}
 */
function literal(value, indent = 0) {
  if (value instanceof Raw) return value.name
  if (typeof value === 'string') return quoted(value)
  if (typeof value !== 'object' || value === null) return String(value)
  const items = Array.isArray(value)
    ? value.map((item) => literal(item, indent + 2))
    : Object.entries(value).map(([key, item]) => `${keyOf(key)}: ${literal(item, indent + 2)}`)
  const [open, close] = Array.isArray(value) ? ['[', ']'] : ['{', '}']
  if (items.length === 0) return open + close
  const pad = Array.isArray(value) ? '' : ' '
  const line = `${open}${pad}${items.join(', ')}${pad}${close}`
  if (line.length <= WIDTH && !line.includes('\n')) return line
  const margin = ' '.repeat(indent)
  return `${open}\n${items.map((item) => `${margin}  ${item},\n`).join('')}${margin}${close}`
}

/** @param {string} key */
function keyOf(key) {
  // As a plain key, `__proto__` would set the prototype.
  if (key === '__proto__') return "['__proto__']"
  return /^[A-Za-z_$][\w$]*$/.test(key) ? key : quoted(key)
}

/** @param {string} text */
function quoted(text) {
  const inside = JSON.stringify(text).slice(1, -1)
  return `'${inside.replaceAll('\\"', '"').replaceAll("'", "\\'")}'`
}

/** @param {string} text */
function shell(text) {
  return /^[\w:/.@-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`
}
