// The code of one call, for copying: with client.js, fetch, curl, the openai SDKs and useChat, and as a
// whole page. Every value is quoted by the rules of its language.

/**
 * @typedef {object} Call
 * @property {string} endpoint the Worker's origin
 * @property {Record<string, unknown>} body `prompt` or `messages`, and the fields that differ from the
 *   defaults. A conversation is streamed.
 * @property {string} defaultModel for the SDKs, which require a model
 * @property {boolean} mayNameModel false if the locked prompt does not accept a model
 * @property {string} sitekey of Turnstile; "" if no visitor token is needed
 */

/** @param {Call} call */
export function snippets(call) {
  return {
    client: client(call),
    fetch: fetching(call),
    curl: curl(call),
    openai: openai(call),
    python: python(call),
    page: page(call),
    useChat: call.body['messages'] === undefined ? '' : useChat(call),
  }
}

/** @param {Call} call */
const pathOf = ({ body }) => (body['messages'] ? '/v1/chat/completions' : '/v1/completions')

/** @param {Call} call @param {string} [output] the function that gets the text */
function client({ endpoint, body, sitekey }, output = 'console.log') {
  const { prompt, messages, stream, ...options } = body
  const name = messages ? 'chat' : stream === true ? 'stream' : 'complete'
  const imported = sitekey === '' ? name : 'createClient'
  const given = messages ? { ...options, stream } : options
  const rest = Object.keys(given).length === 0 ? '' : `, ${literal(given)}`
  const call = `${name}(${messages ? 'messages' : literal(prompt)}${rest})`
  return lines(
    `import { ${imported} } from ${literal(`${endpoint}/client.js`)}`,
    '',
    sitekey === ''
      ? null
      : `const { ${name} } = createClient({ turnstile: { sitekey: ${literal(sitekey)} } })`,
    messages ? `const messages = ${literal(messages)}` : null,
    stream === true
      ? `for await (const text of ${call}) ${output}(text)`
      : `${output}(await ${call})`,
  )
}

/** @param {Call} call */
function page(call) {
  return lines(
    '<!doctype html>',
    '<html lang="en">',
    '<meta charset="utf-8">',
    '<title>An answer</title>',
    '<p></p>',
    '<script type="module">',
    // Only strings contain "<". HTML would read these as the end of the script, or as a comment.
    client(call, "document.querySelector('p').append").replaceAll(/<(?=[/!s])/gi, '\\x3c'),
    '</script>',
    '</html>',
  )
}

const TOKEN = "const token = '…' // from POST /v1/visitors; client.js fetches and renews it"

/** @param {Call} call */
function fetching(call) {
  const { endpoint, body, sitekey } = call
  const streamed = body['stream'] === true
  /** @type {Record<string, string | Raw>} */
  const headers = { 'Content-Type': 'text/plain' }
  if (streamed) headers['Accept'] = 'text/plain'
  if (sitekey !== '') headers['X-Visitor-Token'] = new Raw('token')
  return lines(
    sitekey === '' ? null : TOKEN,
    `const response = await fetch(${literal(endpoint + pathOf(call))}, {`,
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
function curl(call) {
  const { endpoint, body, sitekey } = call
  const parts = [
    body['stream'] === true ? 'curl -N' : 'curl',
    shell(endpoint + pathOf(call)),
    ...(sitekey === '' ? [] : ['-H "X-Visitor-Token: $TOKEN"']),
    `--json ${shell(JSON.stringify(body))}`,
  ]
  const line = parts.join(' ')
  return line.length <= 90 ? line : parts.join(' \\\n  ')
}

/** @param {Call} call */
function openai({ endpoint, body, defaultModel, mayNameModel, sitekey }) {
  const named = mayNameModel ? { model: defaultModel, ...body } : body
  const [path, text] = body['messages']
    ? ['chat.completions', 'delta.content']
    : ['completions', 'text']
  const create = `client.${path}.create(${literal(named)})`
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
          `for await (const { choices } of stream) console.log(choices[0]?.${text})`,
        ]
      : [`const { choices } = await ${create}`, 'console.log(choices[0].text)']),
  )
}

/** @param {Call} call */
function python({ endpoint, body, defaultModel, mayNameModel, sitekey }) {
  const { variables, ...fields } = body
  // The SDK requires a model; None stands for an absent field.
  const named = { model: mayNameModel ? defaultModel : null, ...fields }
  const given = variables === undefined ? named : { ...named, extra_body: { variables } }
  const [path, text] = body['messages']
    ? ['chat.completions', 'delta.content']
    : ['completions', 'text']
  const key = sitekey === '' ? '"none"' : 'token'
  return lines(
    'from openai import OpenAI',
    '',
    sitekey === '' ? null : 'token = "…"  # from POST /v1/visitors',
    `client = OpenAI(base_url=${pythonic(`${endpoint}/v1`)}, api_key=${key})`,
    `answer = client.${path}.create(`,
    ...Object.entries(given).map(([name, value]) => `    ${name}=${pythonic(value, 4)},`),
    ')',
    ...(body['stream'] === true
      ? [
          'for chunk in answer:',
          '    for choice in chunk.choices:',
          `        print(choice.${text} or "", end="")`,
        ]
      : ['print(answer.choices[0].text)']),
  )
}

/** @param {Call} call */
function useChat({ endpoint, body, sitekey }) {
  const { messages, stream, ...fields } = body
  const turns = /** @type {{ role: string, content: string }[]} */ (messages)
  /** @type {Record<string, unknown>} */
  const options = { api: `${endpoint}/v1/ai-sdk` }
  if (sitekey !== '') options['headers'] = { 'X-Visitor-Token': new Raw('token') }
  if (Object.keys(fields).length > 0) options['body'] = fields
  const earlier = turns.slice(0, -1).map(({ role, content }, index) => ({
    id: String(index),
    role,
    parts: [{ type: 'text', text: content }],
  }))
  const given = earlier.length === 0 ? '{ transport }' : '{ transport, messages: earlier }'
  return lines(
    "import { useChat } from '@ai-sdk/react'",
    "import { DefaultChatTransport } from 'ai'",
    '',
    sitekey === '' ? null : TOKEN,
    `const transport = new DefaultChatTransport(${literal(options)})`,
    earlier.length === 0 ? null : `const earlier = ${literal(earlier)}`,
    '',
    'export function Chat() {',
    `  const { messages, sendMessage } = useChat(${given})`,
    `  const send = () => sendMessage({ text: ${literal(turns.at(-1)?.content)} })`,
    '  return (',
    '    <>',
    '      {messages.map(({ id, role, parts }) => (',
    '        <p key={id}>',
    "          {role}: {parts.map((part) => (part.type === 'text' ? part.text : ''))}",
    '        </p>',
    '      ))}',
    '      <button onClick={send}>Send</button>',
    '    </>',
    '  )',
    '}',
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
 * How a language writes values.
 *
 * @typedef {object} Syntax
 * @property {(text: string) => string} text
 * @property {(key: string) => string} key
 * @property {(value: unknown) => string} other
 * @property {number} step of its indentation
 * @property {string} pad inside braces
 */

/** @type {Syntax} */
const javascript = { text: quoted, key: keyOf, other: String, step: 2, pad: ' ' }

const constants = new Map([
  [true, 'True'],
  [false, 'False'],
  [null, 'None'],
])

/** Every JSON string is a string of Python. @type {Syntax} */
const pythonSyntax = {
  text: JSON.stringify,
  key: JSON.stringify,
  other: (value) => constants.get(/** @type {boolean} */ (value)) ?? String(value),
  step: 4,
  pad: '',
}

/**
 * A value as a JavaScript literal with single-quoted strings.
 *
 * @param {unknown} value
 * @param {number} [indent] of the line on which the literal begins
 * @returns {string}
 */
const literal = (value, indent = 0) => written(value, indent, javascript)

/** A value as a Python literal. @param {unknown} value @param {number} [indent] @returns {string} */
const pythonic = (value, indent = 0) => written(value, indent, pythonSyntax)

/** @param {unknown} value @param {number} indent @param {Syntax} syntax @returns {string} */
function written(value, indent, syntax) {
  if (value instanceof Raw) return value.name
  if (typeof value === 'string') return syntax.text(value)
  if (typeof value !== 'object' || value === null) return syntax.other(value)
  const inside = indent + syntax.step
  const items = Array.isArray(value)
    ? value.map((item) => written(item, inside, syntax))
    : Object.entries(value).map(
        ([key, item]) => `${syntax.key(key)}: ${written(item, inside, syntax)}`,
      )
  const [open, close] = Array.isArray(value) ? ['[', ']'] : ['{', '}']
  if (items.length === 0) return open + close
  const pad = Array.isArray(value) ? '' : syntax.pad
  const line = `${open}${pad}${items.join(', ')}${pad}${close}`
  if (line.length <= WIDTH && !line.includes('\n')) return line
  const margin = ' '.repeat(inside)
  return `${open}\n${items.map((item) => `${margin}${item},\n`).join('')}${' '.repeat(indent)}${close}`
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
