// One CONFIG for many tests: every model has its own upstream on a shared scripted server. So no
// test opens another's circuit breaker or sees another's calls, and workerd starts only once.
import { ORIGIN } from './client.ts'
import type { Lane, UpstreamServer } from './upstream-server.ts'
import type { JsonValue } from './workerd.ts'

type Table = Readonly<Record<string, JsonValue>>

export interface OwnModel {
  /** The model id to request. */
  readonly model: string
  readonly lane: Lane
}

export class Lanes<Kind extends string> {
  readonly #suite: { readonly upstream: UpstreamServer }
  readonly #kinds: Readonly<Record<Kind, Table>>
  readonly #each: number
  readonly #taken = new Map<Kind, number>()

  /**
   * @param suite has the server once its tests run
   * @param kinds upstream settings by name, as in `[[vars.CONFIG.upstreams]]`
   * @param each the number of models of each kind
   */
  constructor(
    suite: { readonly upstream: UpstreamServer },
    kinds: Readonly<Record<Kind, Table>>,
    each: number,
  ) {
    this.#suite = suite
    this.#kinds = kinds
    this.#each = each
  }

  /** CONFIG with all models and upstreams. */
  config(more: Table = {}): Table {
    const kinds = Object.keys(this.#kinds) as Kind[]
    const names = kinds.flatMap((kind) =>
      Array.from({ length: this.#each }, (_, i) => [kind, nameOf(kind, i)] as const),
    )
    return {
      origins: [ORIGIN],
      models: names.map(([, id]) => ({ id, upstream: id, upstream_model: 'm' })),
      upstreams: names.map(([kind, name]) => ({
        name,
        base_url: this.#suite.upstream.url(name),
        key: 'UPSTREAM_API_KEY',
        ...this.#kinds[kind],
      })),
      // Large enough that the budget plays no part.
      budget: { tokens_per_day: 1e9, tokens_per_visitor_per_day: 1e9, streams_per_visitor: 1000 },
      ...more,
    }
  }

  /** A model that no other test uses. */
  take(kind: Kind): OwnModel {
    const i = this.#taken.get(kind) ?? 0
    if (i >= this.#each) throw new Error(`no more models of kind "${kind}": raise \`each\``)
    this.#taken.set(kind, i + 1)
    return { model: nameOf(kind, i), lane: this.#suite.upstream.lane(nameOf(kind, i)) }
  }
}

function nameOf(kind: string, i: number): string {
  return `${kind}-${i}`
}
