// The settings as the rest of the house uses them: presets filled in, secrets at hand, names
// resolved. All faults are found at once and named by their path. Reads no environment itself.
import * as v from 'valibot'
import type {
  EffectiveOptions,
  ModelOptions,
  PromptOptions,
  Target,
} from './completion/effective.ts'
import { placesOf } from './completion/template.ts'
import { type Fault, faultsOf, masked, preview } from './faults.ts'
import type { Abandon } from './generate.ts'
import { parseSelectors } from './html/selector.ts'
import { isBrowserOrigin } from './http/cors.ts'
import { salvage } from './salvage.ts'
import { configSchema, name, promptSchema, type Settings } from './settings.ts'
import { type AuthStyle, type Preset, presets, wireLimits } from './upstream/presets.ts'
import type { Feature, Wire } from './upstream/upstream.ts'

type UpstreamSetting = Settings['upstreams'][number]

/** An upstream with its preset filled in and its key at hand. */
export interface UpstreamOptions {
  readonly name: string
  readonly wire: Wire
  readonly baseUrl: string
  readonly auth: AuthStyle
  /** The secret itself; null where the upstream wants none. */
  readonly key: string | null
  readonly path: string | null
  readonly maxTokensField: 'max_tokens' | 'max_completion_tokens'
  readonly streamUsage: boolean
  readonly rename: Readonly<Record<string, string>>
  readonly unsupported: ReadonlySet<Feature>
  readonly stream: 'always' | 'visitor'
  readonly firstByteMs: number
  readonly idleMs: number
  readonly deadlineMs: number
  readonly retries: number
  readonly maxOutputBytes: number
}

/** USD per million tokens. */
type Price = NonNullable<Settings['models'][number]['price']>

export interface Model extends ModelOptions {
  readonly price: Price | null
  readonly abandon: Abandon
  /** Of each target of the route. */
  readonly prices: readonly (Price | null)[]
}

/** What a model's target costs; one that stands in the route twice has its first price. */
export function priceAt({ route, prices }: Model, { upstream, upstream_model }: Target) {
  const position = route.findIndex(
    (target) => target.upstream === upstream && target.upstream_model === upstream_model,
  )
  return prices[position] ?? null
}

export interface LockedPromptOptions extends PromptOptions {
  readonly ttl_seconds: number | null
  readonly spend: 'visitor' | 'operator'
  /** Null: as the model has it. */
  readonly abandon: Abandon | null
}

export interface Config {
  readonly origins: readonly string[]
  readonly originRequired: boolean
  readonly freePrompts: boolean
  /** CONFIG has `free_prompts`; else `freePrompts` depends on whether there are locked prompts. */
  readonly freePromptsSaid: boolean
  readonly models: ReadonlyMap<string, Model>
  readonly upstreams: ReadonlyMap<string, UpstreamOptions>
  readonly prompts: ReadonlyMap<string, LockedPromptOptions>
  readonly defaults: EffectiveOptions['defaults']
  readonly limits: Settings['limits'] & object
  readonly cache: Settings['cache'] & object
  readonly budget: Settings['budget'] & object
  readonly access: Settings['access'] & object
}

export interface ConfigSources {
  /** The variable CONFIG: a table, or a string of JSON. */
  readonly config: unknown
  /** The owner's longer prompts, src/prompts.ts. */
  readonly prompts: unknown
  /** A secret by its name. */
  readonly secret: (name: string) => string | undefined
  /** Whether wrangler.toml gave the Worker this binding. */
  readonly bound: (binding: string) => boolean
}

export type ConfigResult =
  | { readonly config: Config; readonly faults: null }
  | {
      readonly config: null
      readonly faults: readonly Fault[]
      /** Those that are good, so that their pages can read the error. */
      readonly origins: readonly string[]
    }

const filePromptsSchema = v.record(name, promptSchema)

/** Parses everything; never throws. With any fault there is no configuration at all. */
export function parseConfig(sources: ConfigSources): ConfigResult {
  const given = typeof sources.config === 'string' ? parseJson(sources.config) : sources.config
  const result = v.safeParse(configSchema, given)
  const more = v.safeParse(filePromptsSchema, sources.prompts)
  const faults = [
    ...(result.success ? [] : faultsOf(result.issues)),
    ...(more.success ? [] : faultsOf(more.issues).map(inPromptsFile)),
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

/** A string that is no JSON is no table either; it must not be shown: a key may stand in it. */
function parseJson(config: string): unknown {
  try {
    return JSON.parse(config)
  } catch {
    return null
  }
}

function originsIn(given: unknown): string[] {
  const result = v.safeParse(v.object({ origins: v.array(v.unknown()) }), given)
  if (!result.success) return []
  return result.output.origins.filter(
    (origin) => typeof origin === 'string' && isBrowserOrigin(origin),
  ) as string[]
}

const inPromptsFile = ({ path, message }: Fault): Fault => ({
  path: `src/prompts.ts:${path}`,
  message,
})

/**
 * What holds between settings. Collects faults; the configuration is good if there are none. A setting
 * that is bad by itself is empty or at its default here, and nothing is concluded from that.
 */
class Check {
  readonly faults: Fault[] = []
  readonly #settings: Settings
  readonly #filePrompts: Settings['prompts']
  readonly #secret: ConfigSources['secret']
  readonly #bound: ConfigSources['bound']
  readonly #bad: ReadonlySet<string>

  /** @param bad the paths of settings that are bad by themselves */
  constructor(
    settings: Settings,
    filePrompts: Settings['prompts'],
    { secret, bound }: ConfigSources,
    bad: ReadonlySet<string>,
  ) {
    this.#settings = settings
    this.#filePrompts = filePrompts
    this.#secret = secret
    this.#bound = bound
    this.#bad = bad
  }

  config(): Config {
    const { origin_required, free_prompts, limits, cache, budget, access } = this.#settings
    const upstreams = this.#upstreams()
    const models = this.#models(upstreams)
    const prompts = this.#prompts(models)
    this.#budget()
    this.#access()
    this.#bindings()
    return {
      origins: this.#origins(),
      originRequired: origin_required,
      freePrompts: free_prompts ?? prompts.size === 0,
      freePromptsSaid: free_prompts !== undefined,
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

  /** Skips a setting that is bad by itself and everything inside it: one fault is enough. */
  #fault(path: string, message: string): void {
    const isWithin = (bad: string) =>
      path.startsWith(bad) && (path.length === bad.length || /[.[]/.test(path.charAt(bad.length)))
    if (![...this.#bad].some(isWithin)) this.faults.push({ path, message })
  }

  #isBad(...paths: readonly string[]): boolean {
    return paths.some((path) => this.#bad.has(path))
  }

  #origins(): readonly string[] {
    const { origins, anyone_may_spend } = this.#settings
    for (const [i, origin] of origins.entries()) {
      if (origin === '*') {
        if (anyone_may_spend || this.#isBad('anyone_may_spend')) continue
        this.#fault(`origins[${i}]`, 'Cannot use "*": it needs anyone_may_spend = true')
      } else if (!isBrowserOrigin(origin)) {
        this.#fault(
          `origins[${i}]`,
          `Cannot use ${preview(origin)}: expected scheme://host[:port] exactly as browsers send it, such as "https://example.com"`,
        )
      }
    }
    return origins
  }

  #upstreams(): Map<string, UpstreamOptions> {
    const upstreams = new Map<string, UpstreamOptions>()
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

  #upstream(upstream: UpstreamSetting, path: string): UpstreamOptions {
    const preset = presets[upstream.preset ?? 'compatible'] ?? presets['compatible']
    if (preset === undefined) throw new TypeError('no preset for compatible servers')
    const wire = upstream.wire ?? preset.wire
    const keyless = wire === 'demo' || (upstream.preset === undefined && !upstream.key)
    const auth = upstream.auth ?? (keyless ? 'none' : preset.auth)
    // The demo model is built in, whatever its upstream is called.
    const home = wire === 'demo' ? presets['demo']?.baseUrl : null
    return {
      name: upstream.name,
      wire,
      baseUrl: this.#baseUrl(upstream.base_url ?? home ?? preset.baseUrl, wire, path),
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

  /** `native_n` is one more thing that an upstream can do or cannot. */
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
        `Cannot use "native_n": the wire "${wire}" has one choice a call`,
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
    if (given === null) {
      if (this.#isBad(`${path}.preset`, `${path}.wire`)) return ''
      this.#fault(
        `${path}.base_url`,
        'Cannot find "base_url": say where the upstream is, or name a preset that knows',
      )
      return ''
    }
    const url = URL.canParse(given) && given.trim() === given ? new URL(given) : null
    if (url === null || !/^https?:$/.test(url.protocol) || url.search !== '' || url.hash !== '') {
      this.#fault(
        `${path}.base_url`,
        'Cannot use "base_url": expected an http(s) URL without "?" and "#"',
      )
    } else if (url.username !== '' || url.password !== '') {
      this.#fault(
        `${path}.base_url`,
        'Cannot use "base_url": a key belongs in a secret, not in the URL',
      )
    }
    return given.replace(/\/+$/, '')
  }

  /** Never shows the value of `key`: an owner may have pasted the key itself. */
  #key(secretName: string | undefined, auth: AuthStyle, path: string): string | null {
    if (secretName === undefined) {
      const isUnsure = this.#isBad(`${path}.preset`, `${path}.wire`, `${path}.auth`)
      if (auth !== 'none' && !isUnsure) {
        this.#fault(
          `${path}.key`,
          'Cannot find "key": name the secret that holds the upstream\'s key, or set auth = "none"',
        )
      }
      return null
    }
    const secret = this.#secret(secretName)?.trim()
    if (!secret) {
      this.#fault(
        `${path}.key`,
        'Cannot find the secret that "key" names: run "npx wrangler secret put" with that name, or add it to .dev.vars',
      )
    } else if (!/^[\x21-\x7e]+$/.test(secret)) {
      this.#fault(
        `${path}.key`,
        'Cannot use the secret that "key" names: expected printable ASCII without spaces',
      )
    }
    return secret ?? null
  }

  #models(upstreams: ReadonlyMap<string, UpstreamOptions>): Map<string, Model> {
    const known = listed(upstreams.keys())
    const models = new Map<string, Model>()
    for (const [i, model] of this.#settings.models.entries()) {
      const path = `models[${i}]`
      const { id, upstream, upstream_model, fallbacks } = model
      if (models.has(id) && id !== '') {
        this.#fault(`${path}.id`, `Cannot use "${masked(id)}": another model has this id`)
      }
      const price = model.price ?? null
      const route = [{ upstream, upstream_model }, ...fallbacks.map(targetOf)]
      for (const [j, attempt] of route.entries()) {
        if (upstreams.has(attempt.upstream) || !isWhole(upstreams)) continue
        const at = j === 0 ? path : `${path}.fallbacks[${j - 1}]`
        this.#fault(
          `${at}.upstream`,
          `Cannot find upstream "${masked(attempt.upstream)}": known are ${known}`,
        )
      }
      this.#parameters(model.parameters, `${path}.parameters`)
      models.set(id, {
        id,
        system: model.system ?? null,
        parameters: model.parameters,
        route,
        abandon: model.abandon,
        price,
        prices: [price, ...fallbacks.map((fallback) => fallback.price ?? price)],
      })
    }
    return models
  }

  #parameters(parameters: Readonly<Record<string, unknown>>, path: string): void {
    for (const parameter of Object.keys(parameters)) {
      if (!reserved.has(parameter)) continue
      this.#fault(
        `${path}.${parameter}`,
        `Cannot set "${parameter}" here: the gateway sets it, and the budget counts on it`,
      )
    }
  }

  #prompts(models: ReadonlyMap<string, Model>): Map<string, LockedPromptOptions> {
    const prompts = new Map<string, LockedPromptOptions>()
    const { prompts: inline } = this.#settings
    for (const [path, [id, prompt]] of [
      ...Object.entries(inline).map((entry) => ['', entry] as const),
      ...Object.entries(this.#filePrompts).map((entry) => ['src/prompts.ts:', entry] as const),
    ]) {
      const at = `${path === '' ? 'prompts.' : path}${masked(id)}`
      if (prompts.has(id))
        this.#fault(at, `Cannot use "${masked(id)}": CONFIG has a prompt of this id, too`)
      if (prompt.model !== undefined && isWhole(models) && !models.has(prompt.model)) {
        this.#fault(
          `${at}.model`,
          `Cannot find model "${masked(prompt.model)}": known are ${listed(models.keys())}`,
        )
      }
      this.#places(prompt, at)
      this.#pages(prompt, at)
      this.#parameters(prompt.parameters, `${at}.parameters`)
      prompts.set(id, {
        system: prompt.system ?? null,
        text: prompt.text,
        variables: prompt.variables,
        model: prompt.model ?? null,
        max_tokens: prompt.max_tokens ?? null,
        parameters: prompt.parameters,
        visitor_may_set: prompt.visitor_may_set,
        ttl_seconds: prompt.ttl_seconds ?? null,
        spend: prompt.spend,
        abandon: prompt.abandon ?? null,
      })
    }
    return prompts
  }

  /** Every place has a variable, every variable a place. */
  #places({ system, text, variables }: Settings['prompts'][string], at: string): void {
    const places = new Set([...placesOf(text), ...placesOf(system ?? '')])
    for (const place of places) {
      if (!Object.hasOwn(variables, place)) {
        this.#fault(`${at}.text`, `Cannot fill "{{${place}}}": there is no such variable`)
      }
    }
    for (const variable of Object.keys(variables)) {
      if (!places.has(variable) && text !== '') {
        this.#fault(
          `${at}.variables.${variable}`,
          `Cannot use "${variable}": neither text nor system has the place {{${variable}}}`,
        )
      }
    }
  }

  /** Where a variable is a page, somebody must have said whose pages, and where their text is. */
  #pages({ variables }: Settings['prompts'][string], at: string): void {
    for (const [name, variable] of Object.entries(variables)) {
      if (!('from' in variable)) continue
      const isSite = this.#settings.origins.some((origin) => origin !== '*')
      if (!isSite && !this.#isBad('origins')) {
        this.#fault(
          `${at}.variables.${name}`,
          `Cannot read pages for "${name}": put the origin of your site into "origins", such as "https://example.com"; "*" is no site`,
        )
      }
      if (parseSelectors(variable.selector) === null) {
        this.#fault(
          `${at}.variables.${name}.selector`,
          `Cannot use ${preview(variable.selector)}: expected CSS selectors of tags, classes, ids and attributes, such as "main, article"`,
        )
      }
    }
  }

  /** A default nobody set gives way to a lower limit; one that was set must fit. */
  #defaults(): Config['defaults'] {
    const { defaults, limits } = this.#settings
    const { max_tokens, ...others } = defaults
    const isOver = (max_tokens ?? 0) > limits.max_tokens && !this.#isBad('limits.max_tokens')
    if (isOver) {
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
        'Cannot use "defaults.best_of": above 1 it does not go with defaults.stream = true',
      )
    }
    return { ...others, max_tokens: max_tokens ?? Math.min(DEFAULT_MAX_TOKENS, limits.max_tokens) }
  }

  #budget(): void {
    const { budget, models } = this.#settings
    if (budget.usd_per_day === 0) return
    for (const [i, { price }] of models.entries()) {
      if (price !== undefined) continue
      this.#fault(`models[${i}].price`, 'Cannot find "price": budget.usd_per_day needs it')
    }
  }

  #bindings(): void {
    const ai = this.#settings.upstreams.some(({ wire, preset }) =>
      [wire, preset].includes('workers-ai'),
    )
    for (const binding of [...bindings, ...(ai ? ['AI'] : [])]) {
      if (!this.#bound(binding)) {
        this.#fault(binding, `Cannot find the binding "${binding}": wrangler.toml must have it`)
      }
    }
  }

  #access(): void {
    if (this.#settings.access.turnstile_sitekey === '' || this.#secret('TURNSTILE_SECRET')) return
    this.#fault(
      'access.turnstile_sitekey',
      'Cannot find the secret "TURNSTILE_SECRET": run "npx wrangler secret put TURNSTILE_SECRET"',
    )
  }
}

const DEFAULT_MAX_TOKENS = 256
const bindings = ['CACHE', 'FLIGHTS', 'LEDGER', 'USAGE', 'SPEND_LIMIT', 'ASSETS'] as const

/** Fields of an upstream call that bound its cost or its shape. */
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

/** Whether a table has all its names: one that is empty here may be the one that is looked for. */
function isWhole(named: ReadonlyMap<string, unknown>): boolean {
  return named.size > 0 && !named.has('')
}

function listed(names: Iterable<string>): string {
  return [...names].map(masked).join(', ')
}
