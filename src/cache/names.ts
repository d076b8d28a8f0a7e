// The names an answer can be purged by: its request, its prompt, its model, the pages it was made
// from. An entry carries its names, so a purge reaches it wherever it is stored and whoever it is
// kept for. Every name has a prefix, so that none is a name that objects have by birth.
import { sha256 } from '../completion/fingerprint.ts'

/** 128 bits of a hash tell two things apart, and the list of purges holds thousands of them. */
const DIGITS = 32

export interface NamedAnswer {
  /** The key under which everybody finds it: not that of a visitor's own copy. */
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

/** @param address the one spelling of a page's address (src/page/address.ts) */
export async function pageName(address: string): Promise<string> {
  return `page:${(await sha256(address)).slice(0, DIGITS)}`
}
