// The models of CONFIG, and the upstream parameters that an owner may set.
import type { Price } from '../budget/ledger.ts'
import type { Abandon } from '../flight/generate.ts'
import type { ChatOptions } from '../request/conversation.ts'
import type { ModelOptions, Target } from '../request/effective.ts'
import type { Wire } from '../upstream/adapter.ts'
import type { ConnectOptions } from '../upstream/connection.ts'
import { unlimitedIn } from '../upstream/extent.ts'
import { masked } from '../validation.ts'
import type { Faults } from './faults.ts'
import type { Settings } from './schema.ts'

export interface Model extends ModelOptions {
  readonly price: Price | null
  readonly abandon: Abandon
  /** The price of each target of the route. */
  readonly prices: readonly (Price | null)[]
  /** At least one upstream of the route takes chats. */
  readonly takesChats: boolean
}

type Place = Pick<ConnectOptions, 'wire' | 'developer' | 'unsupported'>

/** The price of a model's target. If the route has a target twice, its first price applies. */
export function priceAt({ route, prices }: Model, { upstream, upstream_model }: Target) {
  const position = route.findIndex(
    (target) => target.upstream === upstream && target.upstream_model === upstream_model,
  )
  return prices[position] ?? null
}

export function modelsOf(
  settings: Settings['models'],
  upstreams: ReadonlyMap<string, Place>,
  faults: Faults,
): Map<string, Model> {
  const models = new Map<string, Model>()
  for (const [i, setting] of settings.entries()) {
    const own = faults.within(`models[${i}]`)
    const { id, system = null, parameters, abandon, price = null } = setting
    if (models.has(id) && id !== '') {
      own.add('id', `Cannot use "${masked(id)}": another model has this id`)
    }
    const targets = [setting, ...setting.fallbacks]
    for (const [j, { upstream }] of targets.entries()) {
      const target = j === 0 ? own : own.within(`fallbacks[${j - 1}]`)
      target.mustExist('upstream', upstream, upstreams)
    }
    checkParameters(parameters, own)
    const route = targets.map(({ upstream, upstream_model }) => ({ upstream, upstream_model }))
    const prices = targets.map((target) => target.price ?? price)
    const places = targets.flatMap(({ upstream }) => upstreams.get(upstream) ?? [])
    const chat = chatOf(setting, places)
    const takesChats = places.length === 0 || places.some((place) => !place.unsupported.has('chat'))
    models.set(id, { id, system, chat, parameters, route, abandon, price, prices, takesChats })
  }
  return models
}

function chatOf(setting: Settings['models'][number], places: readonly Place[]): ChatOptions {
  const wires = new Set(places.map(({ wire }) => wire))
  return {
    system: setting.chat_system ?? null,
    promptIsChat: promptIsChat(wires, setting.system !== undefined),
    developer: places.some(({ developer = false }) => developer),
    alternating: wires.size === 1 && wires.has('anthropic'),
  }
}

function promptIsChat(wires: ReadonlySet<Wire>, hasSystem: boolean): ChatOptions['promptIsChat'] {
  if (wires.has('completions')) return 'no'
  if (!wires.has('demo')) return 'yes'
  // The demo is sent a prompt without the system message.
  return hasSystem ? 'no' : 'without_system'
}

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

export function checkParameters(parameters: ModelOptions['parameters'], faults: Faults): void {
  for (const parameter of Object.keys(parameters)) {
    if (!reserved.has(parameter)) continue
    faults.add(
      `parameters.${parameter}`,
      `Cannot set "${parameter}" here: the gateway sets it, and the budget relies on it`,
    )
  }
  const unlimited = unlimitedIn(parameters)
  if (unlimited === null) return
  faults.add(
    'parameters',
    `Cannot set "${unlimited}" below 0 here: the budget cannot hold for a call without a limit`,
  )
}
