// Reads a file that may be missing.
import { readFile } from 'node:fs/promises'

/**
 * The text of a file; null if it is missing.
 *
 * @throws Error with a message for the user if there is one that cannot be read
 */
export async function readTextFile(path: string): Promise<string | null> {
  return await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return null
    throw new Error(`Cannot read ${path}: ${error.code}`)
  })
}
