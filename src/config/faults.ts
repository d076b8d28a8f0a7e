// Collects the faults of all settings, so that they are reported together.
import { type Fault, masked } from '../validation.ts'

export class Faults {
  readonly list: Fault[]
  readonly #rejected: Set<string>
  readonly #prefix: string

  constructor(list: Fault[] = [], rejected = new Set<string>(), prefix = '') {
    this.list = list
    this.#rejected = rejected
    this.#prefix = prefix
  }

  /** The same faults, for paths within this one. */
  within(path: string): Faults {
    return new Faults(this.list, this.#rejected, this.#pathOf(path))
  }

  /** Adds a setting that the schema rejects. From here on it has an empty or default value. */
  reject({ path, message }: Fault): void {
    this.list.push({ path, message })
    this.#rejected.add(path)
  }

  /** Adds a fault, unless the schema has rejected the setting or one that contains it. */
  add(setting: string, message: string): void {
    const path = this.#pathOf(setting)
    const isWithin = (bad: string) =>
      path === bad || path.startsWith(`${bad}.`) || path.startsWith(`${bad}[`)
    if (![...this.#rejected].some(isWithin)) this.list.push({ path, message })
  }

  /** Whether the schema has rejected one of these settings, so that nothing is judged by it. */
  hasRejected(...settings: readonly string[]): boolean {
    return settings.some((setting) => this.#rejected.has(this.#pathOf(setting)))
  }

  /** Checks a reference. A name that the schema has rejected is "". */
  mustExist(setting: 'model' | 'upstream', id: string, named: ReadonlyMap<string, unknown>): void {
    const names = [...named.keys()].filter((name) => name !== '')
    if (names.length === 0 || named.has(id)) return
    const known = names.map(masked).join(', ')
    this.add(setting, `Cannot find ${setting} "${masked(id)}": known are ${known}`)
  }

  #pathOf(setting: string): string {
    return [this.#prefix, setting].filter((part) => part !== '').join('.')
  }
}
