// Reads the CONFIG of a wrangler.toml, and checks it as far as that is possible without the Worker.
// For `npm run check:config`, `npm run setup` and `npm start`.
import { experimental_readRawConfig, unstable_getVarsForDev } from 'wrangler'
import { type Config, parseConfig } from '../../src/config/config.ts'
import { prompts } from '../../src/config/prompts.ts'
import { warningsOf } from '../../src/config/warnings.ts'
import type { Fault } from '../../src/validation.ts'

/** 5 KB: https://developers.cloudflare.com/workers/platform/limits/#environment-variables */
const MAX_BYTES = 5120

/** Everything in a wrangler.toml. @throws Error with the place, if it is not TOML */
export function readWranglerToml(path: string) {
  try {
    return experimental_readRawConfig({ config: path }).rawConfig
  } catch (error) {
    const { text, location } = error as ParseError
    if (location === undefined) throw error
    const { line, column, lineText } = location
    throw new Error(`wrangler.toml:${line}:${column}: ${text}: ${lineText}`)
  }
}

/** The variables of the .dev.vars beside a wrangler.toml, as `wrangler dev` reads them. */
export function readVars(path: string): Readonly<Record<string, unknown>> {
  const vars = unstable_getVarsForDev(path, undefined, {}, undefined, true)
  return Object.fromEntries(Object.entries(vars).map(([name, { value }]) => [name, value]))
}

/** Thrown by wrangler for a file that is not TOML; it does not export the type. */
interface ParseError {
  readonly text: string
  readonly location?: { readonly line: number; readonly column: number; readonly lineText: string }
}

export interface ConfigCheck {
  /** Null: it has faults. */
  readonly config: Config | null
  readonly faults: readonly Fault[]
  readonly warnings: readonly string[]
  /** The names of the secrets that it needs. */
  readonly secrets: ReadonlySet<string>
  /** For example "812 of 5120 bytes". */
  readonly size: string
}

/** Checks CONFIG. Secrets are not stored in wrangler.toml, so only their names can be checked. */
export function checkConfig(config: unknown): ConfigCheck {
  const bytes = Buffer.byteLength(
    typeof config === 'string' ? config : JSON.stringify(config ?? null),
  )
  const secrets = new Set<string>()
  const result = parseConfig({
    config,
    prompts,
    secret: (name) => {
      secrets.add(name)
      return 'set-elsewhere'
    },
    bound: () => true,
  })
  const tooLong = `Cannot deploy CONFIG: expected at most ${MAX_BYTES} bytes, got ${bytes}; move prompts to src/config/prompts.ts`
  return {
    config: result.config,
    faults: [
      ...(bytes > MAX_BYTES ? [{ path: 'CONFIG', message: tooLong }] : []),
      ...(result.faults ?? []),
    ],
    warnings: result.config === null ? [] : warningsOf(result.config),
    secrets,
    size: `${bytes} of ${MAX_BYTES} bytes`,
  }
}
