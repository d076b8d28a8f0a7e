// Part of `npm run check`: verifies that the CONFIG of wrangler.toml is valid and fits in a Worker
// variable. Also prints the warnings of GET /health, which do not fail the check.
import { experimental_readRawConfig } from 'wrangler'
import { parseConfig } from '../src/config/config.ts'
import { prompts } from '../src/config/prompts.ts'
import { warningsOf } from '../src/config/warnings.ts'

/** 5 KB: https://developers.cloudflare.com/workers/platform/limits/#environment-variables */
const MAX_BYTES = 5120

const config = readConfig()
const bytes = Buffer.byteLength(
  typeof config === 'string' ? config : JSON.stringify(config ?? null),
)
const faults =
  bytes > MAX_BYTES
    ? [
        {
          path: 'CONFIG',
          message: `Cannot deploy CONFIG: expected at most ${MAX_BYTES} bytes, got ${bytes}; move prompts to src/config/prompts.ts`,
        },
      ]
    : []
/** The names of the secrets that were asked for. */
const secrets = new Set<string>()
const result = parseConfig({
  config,
  prompts,
  // Secrets are not stored in wrangler.toml, so only their names can be checked.
  secret: (name) => {
    secrets.add(name)
    return 'set-elsewhere'
  },
  bound: () => true,
})
faults.push(...(result.faults ?? []))
const warnings = result.config === null ? [] : warningsOf(result.config)
for (const warning of warnings) console.log(`warning: ${warning}`)
for (const { path, message } of faults) console.error(`${path}: ${message}`)
if (faults.length === 0) {
  console.log(`CONFIG is valid: ${bytes} of ${MAX_BYTES} bytes`)
  for (const name of secrets) {
    console.log(`Not checked here: the secret ${name}; GET /health reports it if missing`)
  }
}
process.exitCode = faults.length === 0 ? 0 : 1

function readConfig(): unknown {
  try {
    return experimental_readRawConfig({ config: 'wrangler.toml' }).rawConfig.vars?.['CONFIG']
  } catch (error) {
    const { text, location } = error as ParseError
    if (location === undefined) throw error
    const { line, column, lineText } = location
    console.error(`wrangler.toml:${line}:${column}: ${text}: ${lineText}`)
    process.exit(1)
  }
}

/** Thrown by wrangler for a file that is not TOML; it does not export the type. */
interface ParseError {
  readonly text: string
  readonly location?: { readonly line: number; readonly column: number; readonly lineText: string }
}
