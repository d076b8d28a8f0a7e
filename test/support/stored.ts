import { modelName } from '../../src/cache/names.ts'
import type { Gateway } from './gateway.ts'

/** How many answers of a model are stored in CACHE. */
export async function countStored(gateway: Gateway, model: string): Promise<number> {
  const name = JSON.stringify(modelName(model))
  return [...(await gateway.kvEntries()).values()].filter((value) => value.includes(name)).length
}
