// The names an answer can be purged by: its request, prompt, model, and the pages it was made from.
// An entry carries its names, so a purge reaches every copy, including those scoped to one visitor.
// Every name has a prefix, so that none collides with a property of Object.prototype.
import { sha256 } from '../hash.ts'

/** 128 bits of the hash: enough to be unique, and short, as the purge list may hold thousands. */
const DIGITS = 32

export interface NamedAnswer {
  /** The key shared by all visitors, not the one scoped to a visitor. */
  readonly key: string
  /** The model's alias. */
  readonly model: string
  /** Null for a free prompt. */
  readonly promptId: string | null
  /** As `pageName` gives them. */
  readonly pages?: readonly string[]
}

export function namesOf({ key, model, promptId, pages = [] }: NamedAnswer): string[] {
  const prompt = promptId === null ? [] : [promptName(promptId)]
  return [requestName(key), modelName(model), ...prompt, ...pages]
}

/** @param key such as `c1:` and 64 hex digits */
export function requestName(key: string): string {
  return `request:${key.slice(0, key.indexOf(':') + 1 + DIGITS)}`
}

export const modelName = (alias: string) => `model:${alias}`
export const promptName = (id: string) => `prompt:${id}`

/** @param address the normalised address of the page (src/page/rules.ts) */
export async function pageName(address: string): Promise<string> {
  return `page:${(await sha256(address)).slice(0, DIGITS)}`
}
