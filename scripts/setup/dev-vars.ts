// .dev.vars: the secrets of `npm start`, one per line. Setup changes only its own lines.
import { parseEnv } from 'node:util'

/** The secrets in the file. */
export function secretsIn(file: string): Readonly<Record<string, string>> {
  return parseEnv(file) as Record<string, string>
}

/** The file with these secrets, each in its place if the file already has it. */
export function withSecrets(file: string, secrets: Readonly<Record<string, string>>): string {
  const lines = file === '' ? [] : file.replace(/\n$/, '').split('\n')
  for (const [name, value] of Object.entries(secrets)) {
    if (secretsIn(file)[name] === value) continue
    const line = `${name}=${quoted(value)}`
    const isOwn = (each: string) => new RegExp(`^\\s*(export\\s+)?${name}\\s*=`).test(each)
    const at = lines.findIndex(isOwn)
    if (at === -1) lines.push(line)
    // A later line of this name would win.
    else
      lines.splice(
        0,
        lines.length,
        ...lines.with(at, line).filter((each, i) => i === at || !isOwn(each)),
      )
  }
  return lines.length === 0 ? '' : `${lines.join('\n')}\n`
}

/** In quotes if needed: "#" would begin a comment. Without them, a shell can also read the line. */
function quoted(value: string): string {
  if (/^[\w.:/+=@-]+$/.test(value)) return value
  const quote = ['"', "'", '`'].find((each) => !value.includes(each)) ?? '"'
  return `${quote}${value}${quote}`
}

/** The file without the values of its secrets. */
export function maskedSecrets(file: string): string {
  return file.replaceAll(/^([^#\n=]+=)(.*)$/gm, (_, name: string, value: string) => {
    const { length } = value.trim().replace(/^(["'`])(.*)\1$/, '$2')
    return length === 0 ? `${name}""` : `${name}… (${length} characters)`
  })
}
