// What the operator's commands have in common: the token, the exit codes, Ctrl-C, and the line that is
// drawn again.
import { setTimeout as sleep } from 'node:timers/promises'
import { secretsIn } from '../setup/dev-vars.ts'
import { Gateway } from './gateway.ts'
import { visible } from './printable.ts'
import { readTextFile } from './text-file.ts'

export const OK = 0
export const FAILED = 1
const NOT_STARTED = 2
/** The convention of shells: 128 plus the number of SIGINT. */
export const INTERRUPTED = 130

export interface Command<Arguments> {
  /** What it does, for "Cannot …". */
  readonly verb: 'warm' | 'index' | 'attack'
  readonly usage: string
  /** @returns null if the user asks for help */
  readonly parse: (args: readonly string[]) => Arguments | null
  /**
   * Called once the Worker has accepted the token.
   *
   * @param signal aborted by Ctrl-C
   * @returns the exit code
   */
  readonly run: (args: Arguments, gateway: Gateway, signal: AbortSignal) => Promise<number>
}

/** @returns the exit code */
export async function main<Arguments extends { readonly url: string }>({
  verb,
  usage,
  parse,
  run,
}: Command<Arguments>): Promise<number> {
  try {
    const args = parse(process.argv.slice(2))
    if (args === null) {
      print(usage)
      return OK
    }
    const token = process.env['OPERATOR_TOKEN'] || ((await localSecrets())['OPERATOR_TOKEN'] ?? '')
    if (token === '') throw new Error(`Cannot ${verb} without OPERATOR_TOKEN\n\n${usage}`)
    const gateway = new Gateway({ url: args.url, token, verb }, fetch)
    await gateway.check()
    return await run(args, gateway, interruption())
  } catch (error) {
    console.error(visible(error instanceof Error ? error.message : String(error)))
    return NOT_STARTED
  }
}

/** The secrets that `npm run setup` writes into `.dev.vars`; empty without that file. */
export async function localSecrets(): Promise<Readonly<Record<string, string>>> {
  return secretsIn((await readTextFile('.dev.vars')) ?? '')
}

/** Resolves early if the signal is aborted. */
export async function wait(ms: number, signal: AbortSignal): Promise<void> {
  await sleep(ms, undefined, { signal }).catch(() => {})
}

/** Prints lines, which may have text of a site or a server. */
export function print(text: string): void {
  console.log(visible(text))
}

/** Replaces the current line of a terminal. Prints nothing elsewhere. */
export function draw(text: string): void {
  if (process.stdout.isTTY) process.stdout.write(`\r\x1b[K${text}`)
}

/** Ends the line that is drawn again. */
export function endDrawing(): void {
  if (process.stdout.isTTY) console.log()
}

/** After Ctrl-C, npm repeats the SIGINT that the terminal has already sent. */
const ECHO_MS = 500

/** Aborts at the first Ctrl-C: running requests are paid for, so they may finish. The second exits. */
function interruption(): AbortSignal {
  const interrupted = new AbortController()
  let firstAt = 0
  process.on('SIGINT', () => {
    if (interrupted.signal.aborted && Date.now() - firstAt < ECHO_MS) return
    if (interrupted.signal.aborted) process.exit(INTERRUPTED)
    firstAt = Date.now()
    interrupted.abort()
    console.error('\nWaiting for running requests to finish. Press Ctrl-C again to quit now.')
  })
  return interrupted.signal
}
