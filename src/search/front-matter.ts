// Reads the fields of front matter, in the subset of YAML and TOML that titles and addresses use.

interface FrontMatter {
  /** Texts by their names in lower case, nested ones included. */
  readonly fields: ReadonlyMap<string, string>
  readonly lineCount: number
}

const MAX_LINES = 100
const DELIMITER = /^(?:-{3,}|\+{3})\s*$/
const FIELD = /^\s*([\w-]+)\s*[:=](?:\s+(.*))?$/
/** Other lines: of lists and texts that are nested, and comments. */
const OTHER = /^(?:\s+\S|#|- )/

/** The front matter that starts at this line; null if none starts there. */
export function readFrontMatter(lines: readonly string[], at: number): FrontMatter | null {
  if (!DELIMITER.test(lines[at] ?? '')) return null
  const fields = new Map<string, string>()
  for (let i = at + 1; i < Math.min(lines.length, at + MAX_LINES); i += 1) {
    const line = lines[i] ?? ''
    if (DELIMITER.test(line) && line[0] === lines[at]?.[0]) {
      return fields.size === 0 ? null : { fields, lineCount: i + 1 - at }
    }
    const [, name, value = ''] = FIELD.exec(line) ?? []
    if (name !== undefined) setFirst(fields, name.toLowerCase(), value)
    else if (fields.size === 0 || (!OTHER.test(line) && (at > 0 || /\S/.test(line)))) return null
  }
  return null
}

function setFirst(fields: Map<string, string>, name: string, value: string): void {
  const bare = value.trim().replace(/^(["'])(.*)\1$/, '$2')
  if (!fields.has(name) && bare !== '') fields.set(name, bare)
}
