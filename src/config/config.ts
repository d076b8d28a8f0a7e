// Parses CONFIG into the options of the other modules: fills in presets, looks up secrets and
// resolves names. Reports all errors together, each with its path. Does not read the environment
// itself.
import * as v from 'valibot'
import { isBrowserOrigin } from '../http/cors.ts'
import { parseJson } from '../json.ts'
import type { EffectiveOptions } from '../request/effective.ts'
import type { ConnectOptions } from '../upstream/connection.ts'
import { byName, type Fault, faultsOf, preview } from '../validation.ts'
import { Faults } from './faults.ts'
import { checkSelector, promptsOf } from './locked-prompts.ts'
import { type Model, modelsOf } from './models.ts'
import { salvage } from './salvage.ts'
import { configSchema, name, promptSchema, type Settings } from './schema.ts'
import { type FindSecret, upstreamsOf } from './upstreams.ts'

export interface Config
  extends Pick<Settings, 'origins' | 'limits' | 'cache' | 'budget' | 'access' | 'site'> {
  readonly originRequired: boolean
  readonly freePrompts: boolean
  /** Whether `free_prompts` is set; otherwise it is true if there are no locked prompts. */
  readonly freePromptsSet: boolean
  readonly models: ReadonlyMap<string, Model>
  readonly upstreams: ReadonlyMap<string, ConnectOptions>
  readonly prompts: ReadonlyMap<string, Settings['prompts'][string]>
  readonly defaults: EffectiveOptions['defaults']
}

export interface ConfigSources {
  /** The variable CONFIG: a table, or a JSON string. */
  readonly config: unknown
  /** The locked prompts in src/config/prompts.ts. */
  readonly prompts: unknown
  readonly secret: FindSecret
  /** Whether the Worker has this binding. */
  readonly bound: (binding: string) => boolean
}

export type ConfigResult =
  | { readonly config: Config; readonly faults: null }
  | {
      readonly config: null
      readonly faults: readonly Fault[]
      /** The valid origins, so that their pages can read the error. */
      readonly origins: readonly string[]
    }

/** Begins the paths of faults in src/config/prompts.ts. */
const PROMPTS_FILE = 'src/config/prompts.ts:'
const filePromptsSchema = byName(name, promptSchema)

/** Parses all settings. Never throws; any fault makes the whole configuration invalid. */
export function parseConfig({ config: raw, prompts, secret, bound }: ConfigSources): ConfigResult {
  // Without JSON.parse's message: it shows the text, which may contain a key.
  const given = typeof raw === 'string' ? (parseJson(raw) ?? null) : raw
  const faults = new Faults()
  const settings = validParts(configSchema, given, '', faults)
  const filePrompts = validParts(filePromptsSchema, prompts, PROMPTS_FILE, faults)
  checkOrigins(settings, faults)
  const upstreams = upstreamsOf(settings.upstreams, secret, faults)
  const models = modelsOf(settings.models, upstreams, faults)
  const tables = [['prompts.', settings.prompts] as const, [PROMPTS_FILE, filePrompts] as const]
  const lockedPrompts = promptsOf(tables, models, settings.origins, faults)
  checkBudget(settings, faults)
  checkTurnstile(settings, secret, faults)
  checkSelector('site.selector', settings.site.selector, faults)
  checkBindings(settings, bound, faults)
  const defaults = defaultsOf(settings, faults)
  if (faults.list.length > 0) {
    return { config: null, faults: faults.list, origins: originsIn(given) }
  }
  const { origins, origin_required, free_prompts, limits, cache, budget, access, site } = settings
  const config: Config = {
    origins,
    originRequired: origin_required,
    freePrompts: free_prompts ?? lockedPrompts.size === 0,
    freePromptsSet: free_prompts !== undefined,
    models,
    upstreams,
    prompts: lockedPrompts,
    defaults,
    limits,
    cache,
    budget,
    access,
    site,
  }
  return { config, faults: null }
}

/** The value without what the schema rejects, of which it adds the faults. */
function validParts<Schema extends v.GenericSchema>(
  schema: Schema,
  value: unknown,
  prefix: string,
  faults: Faults,
): v.InferOutput<Schema> {
  const result = v.safeParse(schema, value)
  if (result.success) return result.output
  for (const { path, message } of faultsOf(result.issues)) {
    faults.reject({ path: `${prefix}${path}`, message })
  }
  return salvage(schema, value)
}

function originsIn(given: unknown): string[] {
  const result = v.safeParse(v.object({ origins: v.array(v.unknown()) }), given)
  if (!result.success) return []
  return result.output.origins.filter(
    (origin) => typeof origin === 'string' && isBrowserOrigin(origin),
  ) as string[]
}

function checkOrigins({ origins, anyone_may_spend }: Settings, faults: Faults): void {
  for (const [i, origin] of origins.entries()) {
    if (origin === '*') {
      if (anyone_may_spend || faults.hasRejected('anyone_may_spend')) continue
      faults.add(`origins[${i}]`, 'Cannot use "*": it requires anyone_may_spend = true')
    } else if (!isBrowserOrigin(origin)) {
      faults.add(
        `origins[${i}]`,
        `Cannot use ${preview(origin)}: expected scheme://host[:port] exactly as browsers send it, such as "https://example.com"`,
      )
    }
  }
}

function checkBudget({ budget, models }: Settings, faults: Faults): void {
  if (budget.usd_per_day === 0) return
  for (const [i, { price }] of models.entries()) {
    if (price !== undefined) continue
    faults.add(`models[${i}].price`, 'Cannot find "price": budget.usd_per_day requires it')
  }
}

function checkTurnstile({ access }: Settings, secret: FindSecret, faults: Faults): void {
  if (access.turnstile_sitekey === '' || secret('TURNSTILE_SECRET')) return
  faults.add(
    'access.turnstile_sitekey',
    'Cannot find the secret "TURNSTILE_SECRET": run "npx wrangler secret put TURNSTILE_SECRET"',
  )
}

const bindings = [
  'CACHE',
  'FLIGHTS',
  'LEDGER',
  'USAGE',
  'SITE',
  'SPEND_LIMIT',
  'SEARCH_LIMIT',
  'ASSETS',
] as const

function checkBindings(
  { upstreams }: Settings,
  bound: ConfigSources['bound'],
  faults: Faults,
): void {
  const ai = upstreams.some(({ wire, preset }) => [wire, preset].includes('workers-ai'))
  for (const binding of [...bindings, ...(ai ? ['AI'] : [])]) {
    if (bound(binding)) continue
    faults.add(binding, `Cannot find the binding "${binding}": add it to wrangler.toml`)
  }
}

const DEFAULT_MAX_TOKENS = 256

/** A default that is set must be within the limits; the built-in one adapts to a lower limit. */
function defaultsOf({ defaults, limits }: Settings, faults: Faults): Config['defaults'] {
  const { max_tokens, ...others } = defaults
  const add = (field: string, state: string) =>
    faults.add(`defaults.${field}`, `Cannot use "defaults.${field}": ${state}`)
  if ((max_tokens ?? 0) > limits.max_tokens && !faults.hasRejected('limits.max_tokens')) {
    add('max_tokens', `it is above limits.max_tokens, which is ${limits.max_tokens}`)
  }
  for (const field of ['n', 'best_of'] as const) {
    if ((others[field] ?? 1) > limits.n && !faults.hasRejected('limits.n')) {
      add(field, 'it is above limits.n')
    }
  }
  // A visitor may send a lower n than the default.
  if (others.stream && (others.best_of ?? 1) > 1) {
    add('best_of', 'expected 1 with defaults.stream = true')
  }
  return { ...others, max_tokens: max_tokens ?? Math.min(DEFAULT_MAX_TOKENS, limits.max_tokens) }
}
