// Parses CONFIG into the options of the other modules: fills in presets, looks up secrets and
// resolves names. Reports all errors together, each with its path. Does not read the environment
// itself.
import * as v from 'valibot'
import type { Price } from '../budget/ledger.ts'
import type { Abandon } from '../flight/generate.ts'
import { parseSelectors } from '../html/selector.ts'
import { isBrowserOrigin } from '../http/cors.ts'
import { parseJson } from '../json.ts'
import type { EffectiveOptions, ModelOptions, Target } from '../request/effective.ts'
import { placeholdersIn } from '../request/template.ts'
import type { Feature, Wire } from '../upstream/adapter.ts'
import type { ConnectOptions } from '../upstream/connection.ts'
import { unlimitedIn } from '../upstream/extent.ts'
import { type AuthStyle, type Preset, presets, wireLimits } from '../upstream/presets.ts'
import { type Fault, faultsOf, masked, preview } from '../validation.ts'
import { salvage } from './salvage.ts'
import { configSchema, name, promptSchema, type Settings } from './schema.ts'

type UpstreamSetting = Settings['upstreams'][number]
type LockedPromptSetting = Settings['prompts'][string]

export interface Model extends ModelOptions {
  readonly price: Price | null
  readonly abandon: Abandon
  /** The price of each target of the route. */
  readonly prices: readonly (Price | null)[]
}

/** The price of a model's target. If the route has a target twice, its first price applies. */
export function priceAt({ route, prices }: Model, { upstream, upstream_model }: Target) {
  const position = route.findIndex(
    (target) => target.upstream === upstream && target.upstream_model === upstream_model,
  )
  return prices[position] ?? null
}

export interface Config
  extends Pick<Settings, 'origins' | 'limits' | 'cache' | 'budget' | 'access'> {
  readonly originRequired: boolean
  readonly freePrompts: boolean
  /** Whether `free_prompts` is set; otherwise it is true if there are no locked prompts. */
  readonly freePromptsSet: boolean
  readonly models: ReadonlyMap<string, Model>
  /** With their presets filled in and their keys looked up. */
  readonly upstreams: ReadonlyMap<string, ConnectOptions>
  readonly prompts: ReadonlyMap<string, LockedPromptSetting>
  readonly defaults: EffectiveOptions['defaults']
}

export interface ConfigSources {
  /** The variable CONFIG: a table, or a JSON string. */
  readonly config: unknown
  /** The locked prompts in src/config/prompts.ts. */
  readonly prompts: unknown
  /** Looks up a secret by its name. */
  readonly secret: (name: string) => string | undefined
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

/** The beginning of a path in that file. */
const PROMPTS_FILE = 'src/config/prompts.ts:'
const filePromptsSchema = v.record(name, promptSchema)

/** Parses all settings. Never throws; any fault makes the whole configuration invalid. */
export function parseConfig(sources: ConfigSources): ConfigResult {
  // Without JSON.parse's message: it shows the text, which may contain a key.
  const { config: raw } = sources
  const given = typeof raw === 'string' ? (parseJson(raw) ?? null) : raw
  const result = v.safeParse(configSchema, given)
  const more = v.safeParse(filePromptsSchema, sources.prompts)
  const faults = [
    ...(result.success ? [] : faultsOf(result.issues)),
    ...(more.success ? [] : faultsOf(more.issues)).map(({ path, message }) => ({
      path: `${PROMPTS_FILE}${path}`,
      message,
    })),
  ]
  const check = new Check(
    result.success ? result.output : salvage(configSchema, given),
    more.success ? more.output : salvage(filePromptsSchema, sources.prompts),
    sources,
    new Set(faults.map(({ path }) => path)),
  )
  const config = check.config()
  faults.push(...check.faults)
  if (faults.length === 0) return { config, faults: null }
  return { config: null, faults, origins: originsIn(given) }
}

function originsIn(given: unknown): string[] {
  const result = v.safeParse(v.object({ origins: v.array(v.unknown()) }), given)
  if (!result.success) return []
  return result.output.origins.filter(
    (origin) => typeof origin === 'string' && isBrowserOrigin(origin),
  ) as string[]
}

/**
 * Checks settings against each other and collects faults. An invalid setting has an empty or
 * default value here (salvage.ts), and checks that depend on it are skipped.
 */
class Check {
  readonly faults: Fault[] = []
  readonly #settings: Settings
  readonly #filePrompts: Settings['prompts']
  readonly #sources: ConfigSources
  readonly #bad: ReadonlySet<string>

  /** @param bad the paths of settings that the schema rejects */
  constructor(
    settings: Settings,
    filePrompts: Settings['prompts'],
    sources: ConfigSources,
    bad: ReadonlySet<string>,
  ) {
    this.#settings = settings
    this.#filePrompts = filePrompts
    this.#sources = sources
    this.#bad = bad
  }

  config(): Config {
    const { origins, origin_required, free_prompts, limits, cache, budget, access } = this.#settings
    this.#origins()
    const upstreams = this.#upstreams()
    const models = this.#models(upstreams)
    const prompts = this.#prompts(models)
    this.#budget()
    this.#access()
    this.#bindings()
    return {
      origins,
      originRequired: origin_required,
      freePrompts: free_prompts ?? prompts.size === 0,
      freePromptsSet: free_prompts !== undefined,
      models,
      upstreams,
      prompts,
      defaults: this.#defaults(),
      limits,
      cache,
      budget,
      access,
    }
  }

  /** Adds a fault, unless the schema has rejected the setting or one that contains it. */
  #fault(path: string, message: string): void {
    const isWithin = (bad: string) =>
      path === bad || path.startsWith(`${bad}.`) || path.startsWith(`${bad}[`)
    if (![...this.#bad].some(isWithin)) this.faults.push({ path, message })
  }

  #isBad(...paths: readonly string[]): boolean {
    return paths.some((path) => this.#bad.has(path))
  }

  #origins(): void {
    const { origins, anyone_may_spend } = this.#settings
    for (const [i, origin] of origins.entries()) {
      if (origin === '*') {
        if (anyone_may_spend || this.#isBad('anyone_may_spend')) continue
        this.#fault(`origins[${i}]`, 'Cannot use "*": it requires anyone_may_spend = true')
      } else if (!isBrowserOrigin(origin)) {
        this.#fault(
          `origins[${i}]`,
          `Cannot use ${preview(origin)}: expected scheme://host[:port] exactly as browsers send it, such as "https://example.com"`,
        )
      }
    }
  }

  #upstreams(): Map<string, ConnectOptions> {
    const upstreams = new Map<string, ConnectOptions>()
    for (const [i, upstream] of this.#settings.upstreams.entries()) {
      const path = `upstreams[${i}]`
      const { name } = upstream
      if (upstreams.has(name) && name !== '') {
        this.#fault(`${path}.name`, `Cannot use "${masked(name)}": another upstream has this name`)
      }
      upstreams.set(name, this.#upstream(upstream, path))
    }
    return upstreams
  }

  #upstream(upstream: UpstreamSetting, path: string): ConnectOptions {
    const preset = presets[upstream.preset ?? 'compatible'] ?? presets['compatible']
    if (preset === undefined) throw new TypeError('no preset for compatible servers')
    const wire = upstream.wire ?? preset.wire
    const keyless = wire === 'demo' || (upstream.preset === undefined && !upstream.key)
    const auth = upstream.auth ?? (keyless ? 'none' : preset.auth)
    // The demo model is built in, with or without its preset.
    const builtIn = wire === 'demo' ? presets['demo']?.baseUrl : null
    return {
      name: upstream.name,
      wire,
      baseUrl: this.#baseUrl(upstream.base_url ?? builtIn ?? preset.baseUrl, wire, path),
      auth,
      key: this.#key(upstream.key, auth, path),
      path: upstream.path ?? preset.path,
      maxTokensField: upstream.max_tokens_field ?? preset.maxTokensField,
      streamUsage: upstream.stream_usage ?? preset.streamUsage,
      rename: preset.rename,
      unsupported: this.#unsupported(upstream, preset, wire, path),
      stream: upstream.stream,
      firstByteMs: upstream.first_byte_ms,
      idleMs: upstream.idle_ms,
      deadlineMs: upstream.deadline_ms,
      retries: upstream.retries,
      maxOutputBytes: upstream.max_output_bytes,
    }
  }

  /** The features an upstream does not support; `native_n = false` adds "n" to them. */
  #unsupported(
    { unsupported, native_n }: UpstreamSetting,
    preset: Preset,
    wire: Wire,
    path: string,
  ): ReadonlySet<Feature> {
    const limits = wireLimits[wire]
    if (native_n && limits.includes('n')) {
      this.#fault(
        `${path}.native_n`,
        `Cannot use "native_n": the wire "${wire}" returns one choice per call`,
      )
    }
    const nativeN = native_n ?? preset.nativeN ?? wire !== 'chat'
    return new Set([
      ...limits,
      ...(unsupported ?? preset.unsupported),
      ...(nativeN ? [] : (['n'] as const)),
    ])
  }

  #baseUrl(given: string | null, wire: Wire, path: string): string {
    if (wire === 'workers-ai') return ''
    const at = `${path}.base_url`
    if (given === null) {
      if (this.#isBad(`${path}.preset`, `${path}.wire`)) return ''
      this.#fault(
        at,
        'Cannot find "base_url": set the URL of the upstream, or choose a preset that has one',
      )
      return ''
    }
    const wirePath = /(\/chat\/completions|(?<=\/v1)\/(?:completions|messages))\/*$/.exec(
      given,
    )?.[1]
    const url = URL.canParse(given) && given.trim() === given ? new URL(given) : null
    if (url === null || !/^https?:$/.test(url.protocol) || url.search !== '' || url.hash !== '') {
      this.#fault(
        at,
        'Cannot use "base_url": expected an http(s) URL without "?" and "#", such as "https://llm.example.net/v1"',
      )
    } else if (url.username !== '' || url.password !== '') {
      this.#fault(at, 'Cannot use "base_url": a key belongs in a secret, not in the URL')
    } else if (wirePath !== undefined) {
      this.#fault(at, `Cannot use "base_url": leave out "${wirePath}", which is added to it`)
    }
    return given.replace(/\/+$/, '')
  }

  /** Messages never show the value of `key`, because the owner may have pasted the key itself. */
  #key(secretName: string | undefined, auth: AuthStyle, path: string): string | null {
    const at = `${path}.key`
    if (secretName === undefined) {
      const isUnsure = this.#isBad(`${path}.preset`, `${path}.wire`, `${path}.auth`)
      if (auth !== 'none' && !isUnsure) {
        this.#fault(
          at,
          'Cannot find "key": name the secret that holds the upstream\'s key, or set auth = "none"',
        )
      }
      return null
    }
    const secret = this.#sources.secret(secretName)?.trim()
    if (!secret) {
      this.#fault(
        at,
        'Cannot find the secret that "key" names: run "npx wrangler secret put" with that name, or add it to .dev.vars',
      )
    } else if (!/^[\x21-\x7e]+$/.test(secret)) {
      this.#fault(
        at,
        'Cannot use the secret that "key" names: expected printable ASCII without spaces',
      )
    }
    return secret ?? null
  }

  #models(upstreams: ReadonlyMap<string, ConnectOptions>): Map<string, Model> {
    const models = new Map<string, Model>()
    for (const [i, model] of this.#settings.models.entries()) {
      const path = `models[${i}]`
      const { id } = model
      if (models.has(id) && id !== '') {
        this.#fault(`${path}.id`, `Cannot use "${masked(id)}": another model has this id`)
      }
      const price = model.price ?? null
      const targets = [model, ...model.fallbacks]
      for (const [j, { upstream }] of targets.entries()) {
        const at = j === 0 ? path : `${path}.fallbacks[${j - 1}]`
        this.#mustExist(`${at}.upstream`, 'upstream', upstream, upstreams)
      }
      this.#parameters(model.parameters, `${path}.parameters`)
      models.set(id, {
        id,
        system: model.system ?? null,
        parameters: model.parameters,
        route: targets.map(targetOf),
        abandon: model.abandon,
        price,
        prices: targets.map((target) => target.price ?? price),
      })
    }
    return models
  }

  /** Checks a name. The key of a name that the schema has rejected is "". */
  #mustExist(
    path: string,
    kind: 'model' | 'upstream',
    id: string,
    named: ReadonlyMap<string, unknown>,
  ): void {
    const names = [...named.keys()].filter((name) => name !== '')
    if (names.length === 0 || named.has(id)) return
    const known = names.map(masked).join(', ')
    this.#fault(path, `Cannot find ${kind} "${masked(id)}": expected one of ${known}`)
  }

  #parameters(parameters: Readonly<Record<string, unknown>>, path: string): void {
    for (const parameter of Object.keys(parameters)) {
      if (!reserved.has(parameter)) continue
      this.#fault(
        `${path}.${parameter}`,
        `Cannot set "${parameter}" here: the gateway sets it, and the budget relies on it`,
      )
    }
    const unlimited = unlimitedIn(parameters)
    if (unlimited === null) return
    this.#fault(
      path,
      `Cannot set "${unlimited}" below 0 here: the budget cannot hold for a call without a limit`,
    )
  }

  #prompts(models: ReadonlyMap<string, Model>): Map<string, LockedPromptSetting> {
    const prompts = new Map<string, LockedPromptSetting>()
    const tables = [
      ['prompts.', this.#settings.prompts],
      [PROMPTS_FILE, this.#filePrompts],
    ] as const
    for (const [prefix, table] of tables) {
      for (const [id, prompt] of Object.entries(table)) {
        const at = `${prefix}${masked(id)}`
        if (prompts.has(id)) {
          this.#fault(at, `Cannot use "${masked(id)}": CONFIG also has a prompt with this id`)
        }
        if (prompt.model !== undefined) {
          this.#mustExist(`${at}.model`, 'model', prompt.model, models)
        }
        this.#places(prompt, at)
        this.#pages(prompt, at)
        this.#parameters(prompt.parameters, `${at}.parameters`)
        prompts.set(id, prompt)
      }
    }
    return prompts
  }

  /** Every placeholder needs a variable, and every variable a placeholder. */
  #places({ system, text, variables }: LockedPromptSetting, at: string): void {
    const places = new Set([...placeholdersIn(text), ...placeholdersIn(system ?? '')])
    for (const place of places) {
      if (Object.hasOwn(variables, place)) continue
      this.#fault(`${at}.text`, `Cannot fill "{{${masked(place)}}}": there is no such variable`)
    }
    if (text === '') return
    for (const name of Object.keys(variables)
      .filter((name) => !places.has(name))
      .map(masked)) {
      this.#fault(
        `${at}.variables.${name}`,
        `Cannot use "${name}": neither text nor system contains {{${name}}}`,
      )
    }
  }

  /** A page variable needs an origin to read pages from, and a valid selector. */
  #pages({ variables }: LockedPromptSetting, at: string): void {
    const hasSite = this.#settings.origins.some((origin) => origin !== '*')
    for (const [key, variable] of Object.entries(variables)) {
      if (!('from' in variable)) continue
      const name = masked(key)
      const path = `${at}.variables.${name}`
      if (!hasSite && !this.#isBad('origins')) {
        this.#fault(
          path,
          `Cannot read pages for "${name}": add the origin of your site to "origins", such as "https://example.com" ("*" is not enough)`,
        )
      }
      if (parseSelectors(variable.selector) === null) {
        this.#fault(
          `${path}.selector`,
          `Cannot use ${preview(variable.selector)}: expected CSS selectors of tags, classes, ids and attributes, such as "main, article"`,
        )
      }
    }
  }

  /** A default that is set must be within the limits; the built-in one adapts to a lower limit. */
  #defaults(): Config['defaults'] {
    const { defaults, limits } = this.#settings
    const { max_tokens, ...others } = defaults
    if ((max_tokens ?? 0) > limits.max_tokens && !this.#isBad('limits.max_tokens')) {
      this.#fault(
        'defaults.max_tokens',
        `Cannot use "defaults.max_tokens": it is above limits.max_tokens, which is ${limits.max_tokens}`,
      )
    }
    for (const field of ['n', 'best_of'] as const) {
      if ((others[field] ?? 1) > limits.n && !this.#isBad('limits.n')) {
        this.#fault(`defaults.${field}`, `Cannot use "defaults.${field}": it is above limits.n`)
      }
    }
    if (others.stream && (others.best_of ?? 1) > 1) {
      this.#fault(
        'defaults.best_of',
        'Cannot use "defaults.best_of": expected 1 with defaults.stream = true',
      )
    }
    return { ...others, max_tokens: max_tokens ?? Math.min(DEFAULT_MAX_TOKENS, limits.max_tokens) }
  }

  #budget(): void {
    const { budget, models } = this.#settings
    if (budget.usd_per_day === 0) return
    for (const [i, { price }] of models.entries()) {
      if (price !== undefined) continue
      this.#fault(`models[${i}].price`, 'Cannot find "price": budget.usd_per_day requires it')
    }
  }

  #bindings(): void {
    const ai = this.#settings.upstreams.some(({ wire, preset }) =>
      [wire, preset].includes('workers-ai'),
    )
    for (const binding of [...bindings, ...(ai ? ['AI'] : [])]) {
      if (!this.#sources.bound(binding)) {
        this.#fault(binding, `Cannot find the binding "${binding}": add it to wrangler.toml`)
      }
    }
  }

  #access(): void {
    if (this.#settings.access.turnstile_sitekey === '' || this.#sources.secret('TURNSTILE_SECRET'))
      return
    this.#fault(
      'access.turnstile_sitekey',
      'Cannot find the secret "TURNSTILE_SECRET": run "npx wrangler secret put TURNSTILE_SECRET"',
    )
  }
}

const DEFAULT_MAX_TOKENS = 256
const bindings = ['CACHE', 'FLIGHTS', 'LEDGER', 'USAGE', 'SPEND_LIMIT', 'ASSETS'] as const

/** Fields of an upstream call that determine its cost or its shape. */
const reserved: ReadonlySet<string> = new Set([
  'model',
  'messages',
  'prompt',
  'system',
  'stream',
  'stream_options',
  'n',
  'best_of',
  'max_tokens',
  'max_completion_tokens',
  'echo',
])

const targetOf = ({ upstream, upstream_model }: Target): Target => ({ upstream, upstream_model })
