// Reads what the command lines of the operator's commands have in common. Messages are for the user.
import { type ParseArgsConfig, parseArgs } from 'node:util'

export const DEFAULT_CONCURRENCY = 4
const MAX_CONCURRENCY = 32

/** @throws Error with the usage if an option is unknown or lacks its value */
export function readOptions<Options extends NonNullable<ParseArgsConfig['options']>>(
  args: readonly string[],
  options: Options,
  usage: string,
) {
  try {
    return parseArgs({ args: [...args], options, allowPositionals: true })
  } catch (error) {
    throw new Error(`${error instanceof Error ? error.message : error}\n\n${usage}`)
  }
}

/** @throws Error */
export function readConcurrency(value: string): number {
  const concurrency = Number(value)
  const isValid = Number.isSafeInteger(concurrency) && concurrency >= 1
  if (isValid && concurrency <= MAX_CONCURRENCY) return concurrency
  throw new Error(
    `Cannot use --concurrency ${JSON.stringify(value)}: expected a whole number from 1 to ${MAX_CONCURRENCY}`,
  )
}

/** @throws Error */
export function readUrl(name: string, value: string | undefined, usage: string): string {
  const url = URL.canParse(value ?? '') ? new URL(value ?? '') : null
  if (url !== null && /^https?:$/.test(url.protocol) && url.username === '') return url.href
  // Do not print the value: it may be a misplaced token.
  throw new Error(`Cannot use ${name}: expected an address such as https://…\n\n${usage}`)
}
