// Watches files of a folder. Editors that save by renaming a new file over the old one replace what a
// watcher of the file itself watches, so this watches the folder.
import { readFileSync, statSync, watch } from 'node:fs'
import { join } from 'node:path'

/** A save is several events, and the file may be empty or missing in between. */
const SETTLE_MS = 200

/** Calls back when the content of a file has changed. @returns a function that stops watching */
export function watchFiles(
  folder: string,
  names: readonly string[],
  onChange: (name: string) => void,
): () => void {
  const contentOf = (name: string) => {
    try {
      return readFileSync(join(folder, name), 'utf8')
    } catch {
      return null
    }
  }
  const known = new Map(names.map((name) => [name, contentOf(name)]))
  const timers = new Map<string, NodeJS.Timeout>()
  const watcher = watch(folder, (_event, name) => {
    if (name === null || !known.has(name)) return
    clearTimeout(timers.get(name))
    const settle = () => {
      const content = contentOf(name)
      if (content === known.get(name)) return
      known.set(name, content)
      onChange(name)
    }
    timers.set(name, setTimeout(settle, SETTLE_MS))
  })
  return () => {
    watcher.close()
    for (const timer of timers.values()) clearTimeout(timer)
  }
}

/** Whether one of the files was saved since then, or just before, even with the same content. */
export function savedSince(time: number, folder: string, names: readonly string[]): boolean {
  const isSaved = (name: string) => {
    const stats = statSync(join(folder, name), { throwIfNoEntry: false })
    return stats !== undefined && stats.mtimeMs > time - SETTLE_MS
  }
  return names.some(isSaved)
}
