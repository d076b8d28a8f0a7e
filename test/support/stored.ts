import { modelName } from '../../src/cache/names.ts'
import type { Workers } from './workerd.ts'

/** How many answers of a model are stored in CACHE. */
export async function countStored(workers: Workers, model: string): Promise<number> {
  const name = JSON.stringify(modelName(model))
  return [...(await workers.kvEntries()).values()].filter((value) => value.includes(name)).length
}
