// The two files that setup writes: what would change, and writing it. Nothing is written that the
// Worker would refuse.
import { constants } from 'node:fs'
import { copyFile, mkdtemp, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import type { Fault } from '../../src/validation.ts'
import { checkConfig, readVars, readWranglerToml } from '../config/check.ts'
import { readTextFile } from '../operator/text-file.ts'
import { SetupError } from './arguments.ts'
import { maskedSecrets } from './dev-vars.ts'
import { changesOf } from './diff.ts'
import { withSettings } from './wrangler-toml.ts'

const WRANGLER = 'wrangler.toml'
const DEV_VARS = '.dev.vars'

/** A file with its present and its new content. */
export interface Change {
  readonly name: string
  readonly before: string
  readonly after: string
  /** For people to read; "" without a change. */
  readonly diff: string
}

/**
 * "" if there is no such file.
 *
 * @throws SetupError if it cannot be read: setup would replace it, and no copy has its secrets
 */
export async function readDevVars(folder: string): Promise<string> {
  return (await readOwn(folder, DEV_VARS)) ?? ''
}

async function readOwn(folder: string, name: string): Promise<string | null> {
  try {
    return await readTextFile(join(folder, name))
  } catch (error) {
    const { message } = error as Error
    throw new SetupError(
      `${message}. Nothing is written: make it a file that you can read, and run this again.`,
    )
  }
}

/**
 * The settings in the present wrangler.toml.
 *
 * @throws SetupError
 */
export async function readSettings(folder: string): Promise<unknown> {
  const [file] = await parsed(folder, [await readWrangler(folder)])
  return file?.vars?.['CONFIG']
}

async function readWrangler(folder: string): Promise<string> {
  const text = await readOwn(folder, WRANGLER)
  if (text !== null) return text
  throw new SetupError(`Cannot find ${WRANGLER}: run this in a clone of edge-completions`)
}

/**
 * The new wrangler.toml, and the settings in it.
 *
 * @throws SetupError if the Worker would refuse them, or something else in the file would change
 */
export async function planSettings(folder: string, settings: string) {
  const before = await readWrangler(folder)
  const after = withSettings(before, settings)
  const [old, next] = await parsed(folder, [before, after])
  const [others, nextOthers] = [old, next].map((all) => {
    const { vars, ai: _, ...rest } = { ...all }
    const { CONFIG: _config, ...variables } = { ...vars }
    return { ...rest, ...variables }
  })
  if (!isDeepStrictEqual(others, nextOthers)) {
    throw new SetupError(
      `Cannot change ${WRANGLER}: more than its [vars.CONFIG] would change. Put it between the two marker lines of the shipped ${WRANGLER}, and run this again.`,
    )
  }
  const config = next?.vars?.['CONFIG']
  const { faults } = checkConfig(config)
  if (faults.length > 0) throw refusedSettings(faults)
  return { config, change: { name: WRANGLER, before, after, diff: changesOf(before, after) } }
}

export function refusedSettings(faults: readonly Fault[]): SetupError {
  const list = faults.map(({ path, message }) => `  ${path}: ${message}`).join('\n')
  return new SetupError(`Cannot use these settings:\n${list}`)
}

/** Wrangler reads files only. */
async function parsed(folder: string, texts: readonly string[]) {
  return await inTemporary(folder, async (temporary) => {
    const path = join(temporary, WRANGLER)
    const all = []
    for (const text of texts) {
      await writeFile(path, text)
      all.push(readWranglerToml(path))
    }
    return all
  }).catch((error) => {
    throw new SetupError(error instanceof Error ? error.message : String(error))
  })
}

/** Uses a new folder inside of this one, which only the owner can open, and removes it. */
async function inTemporary<Result>(
  folder: string,
  use: (temporary: string) => Promise<Result>,
): Promise<Result> {
  const temporary = await mkdtemp(join(folder, '.setup-'))
  try {
    return await use(temporary)
  } finally {
    await rm(temporary, { recursive: true })
  }
}

/**
 * Checks that wrangler reads these secrets in the file as they are.
 *
 * @throws SetupError
 */
export async function checkSecrets(
  folder: string,
  file: string,
  secrets: Readonly<Record<string, string>>,
): Promise<void> {
  const read = await inTemporary(folder, async (temporary) => {
    await writeFile(join(temporary, DEV_VARS), file, { mode: 0o600 })
    return readVars(join(temporary, WRANGLER))
  })
  const changed = Object.keys(secrets).filter((name) => read[name] !== secrets[name])
  if (changed.length === 0) return
  throw new SetupError(
    `Cannot write ${changed.join(', ')} into ${DEV_VARS}: it would be read as something else. Look for quotes that are not closed there, or use another key.`,
  )
}

export function planSecrets(before: string, after: string): Change {
  // The same key with another value looks the same when masked.
  const [old, next] = [before, after].map(maskedSecrets) as [string, string]
  const isHidden = before !== after && old === next
  const diff = isHidden
    ? '  (a secret is replaced by another of the same length)'
    : changesOf(old, next)
  return { name: DEV_VARS, before, after, diff }
}

/** Writes the file. @returns the name of a copy of the present one, if there is one */
export async function write(
  folder: string,
  { name, before, after }: Change,
): Promise<string | null> {
  const isSecret = name === DEV_VARS
  // Only the owner's settings: a copy of secrets would be forgotten somewhere.
  const copy = isSecret || before === '' ? null : await copyOf(folder, name)
  await inTemporary(folder, async (temporary) => {
    const next = join(temporary, name)
    await writeFile(next, after, { mode: isSecret ? 0o600 : 0o644 })
    await rename(next, join(folder, name))
  })
  return copy
}

/** Copies a file to the first free name. @returns the name of the copy, or of an older one like it */
async function copyOf(folder: string, name: string): Promise<string> {
  const path = join(folder, name)
  for (let number = 1; ; number += 1) {
    const copy = `${name}.bak${number === 1 ? '' : number}`
    try {
      await copyFile(path, join(folder, copy), constants.COPYFILE_EXCL)
      return copy
    } catch (error) {
      if ((error as { code?: string }).code !== 'EEXIST') throw error
      if ((await readFile(path)).equals(await readFile(join(folder, copy)))) return copy
    }
  }
}
