// Part of `npm run check`: the CONFIG of wrangler.toml must fit a Worker variable, and must parse.
// Prints what GET /health would warn of, too; a warning is no failure.
import { experimental_readRawConfig } from 'wrangler'
import { parseConfig } from '../src/config.ts'
import { prompts } from '../src/prompts.ts'
import { warningsOf } from '../src/warnings.ts'

/** Cloudflare's limit for one variable: 5 KB. */
const MAX_BYTES = 5120

const { rawConfig } = experimental_readRawConfig({ config: 'wrangler.toml' })
const config = rawConfig.vars?.['CONFIG']
const bytes = Buffer.byteLength(
  typeof config === 'string' ? config : JSON.stringify(config ?? null),
)
const faults =
  bytes > MAX_BYTES
    ? [
        {
          path: 'CONFIG',
          message: `Cannot deploy CONFIG: it has ${bytes} bytes, a Worker variable holds ${MAX_BYTES}; move prompts to src/prompts.ts`,
        },
      ]
    : []
const result = parseConfig({
  config,
  prompts,
  // Secrets live elsewhere; here only their names are judged.
  secret: () => 'set-elsewhere',
  bound: () => true,
})
faults.push(...(result.faults ?? []))
const warnings = result.config === null ? [] : warningsOf(result.config)
for (const warning of warnings) console.log(`warning: ${warning}`)
for (const { path, message } of faults) console.error(`${path}: ${message}`)
if (faults.length === 0) console.log(`CONFIG is good: ${bytes} of ${MAX_BYTES} bytes`)
process.exitCode = faults.length === 0 ? 0 : 1
