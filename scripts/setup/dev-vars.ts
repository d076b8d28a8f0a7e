// .dev.vars: the secrets of `npm start`. Setup changes only its own.
import { SetupError } from './arguments.ts'

interface Entry {
  readonly name: string
  readonly value: string
  /** Its lines: a value in quotes may have several. */
  readonly start: number
  readonly end: number
  /** Where its name ends. */
  readonly nameEnd: number
}

/** As wrangler reads the file: https://github.com/motdotla/dotenv/blob/master/lib/main.js */
const ENTRY =
  /^\s*(?:export\s+)?([\w.-]+)(?:\s*=\s*?|:\s+?)(\s*'(?:\\'|[^'])*'|\s*"(?:\\"|[^"])*"|\s*`(?:\\`|[^`])*`|[^#\r\n]+)?\s*(?:#.*)?$/dgm

function entriesIn(file: string): Entry[] {
  return [...file.matchAll(ENTRY)].map((match) => {
    const [all, name = '', value = ''] = match
    const [, [, nameEnd] = [0, 0], valueAt] = match.indices ?? []
    const firstAt = match.index + all.search(/\S/)
    const lineEnd = file.indexOf('\n', valueAt?.[1] ?? nameEnd)
    return {
      name,
      value: unquoted(value),
      start: file.lastIndexOf('\n', firstAt - 1) + 1,
      end: lineEnd === -1 ? file.length : lineEnd,
      nameEnd,
    }
  })
}

function unquoted(written: string): string {
  const text = written.trim().replaceAll(/\r\n?/g, '\n')
  const value = text.replace(/^(['"`])([\s\S]*)\1$/, '$2')
  if (!text.startsWith('"')) return value
  return value.replaceAll('\\n', '\n').replaceAll('\\r', '\r')
}

/** The secrets in the file. */
export function secretsIn(file: string): Readonly<Record<string, string>> {
  return Object.fromEntries(entriesIn(file).map(({ name, value }) => [name, value]))
}

/**
 * The file with these secrets, each in its place if the file already has it.
 *
 * @throws SetupError if a secret cannot be written so that it is read again unchanged
 */
export function withSecrets(file: string, secrets: Readonly<Record<string, string>>): string {
  let text = file === '' || file.endsWith('\n') ? file : `${file}\n`
  for (const [name, value] of Object.entries(secrets)) {
    if (secretsIn(text)[name] === value) continue
    const line = lineOf(name, value)
    const own = entriesIn(text).filter((entry) => entry.name === name)
    if (own.length === 0) text += `${line}\n`
    // A later entry of this name would win.
    for (const [i, { start, end }] of [...own.entries()].reverse()) {
      text =
        i === 0
          ? text.slice(0, start) + line + text.slice(end)
          : text.slice(0, start) + text.slice(end + 1)
    }
  }
  return text
}

/** In quotes if needed: "#" would begin a comment. Without them, a shell can also read the line. */
function lineOf(name: string, value: string): string {
  const quotes = /^[\w.:/+=@-]+$/.test(value) ? [''] : ['"', "'", '`', '']
  const lines = quotes.map((quote) => `${name}=${quote}${value}${quote}`)
  const line = lines.find((each) => secretsIn(each)[name] === value)
  if (line !== undefined) return line
  throw new SetupError(
    `Cannot write ${name} into .dev.vars: it contains all three kinds of quotes, so it cannot be quoted there. Use another key.`,
  )
}

/** The file without the values of its secrets. */
export function maskedSecrets(file: string): string {
  let rest = 0
  const parts = entriesIn(file).flatMap(({ value, start, end, nameEnd }) => {
    const before = file.slice(rest, start)
    rest = end
    return [maskedLines(before), `${file.slice(start, nameEnd)}=${masked(value)}`]
  })
  return [...parts, maskedLines(file.slice(rest))].join('')
}

/** What is no entry, and no comment, may be part of a secret. */
const maskedLines = (text: string) => text.replaceAll(/^(?!\s*#).*\S.*$/gm, masked)

const masked = ({ length }: string) => (length === 0 ? '""' : `… (${length} characters)`)
