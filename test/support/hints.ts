import { hints } from '../../src/upstream/hints.ts'

/** The sentence in the log for the keys of a failure's hint. */
export function sentenceOf(keys: string): string | undefined {
  const known = keys.split(' ').find((key) => Object.hasOwn(hints, key))
  return known === undefined ? undefined : hints[known as keyof typeof hints]
}
