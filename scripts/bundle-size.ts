// The modules of a built Worker, and their sizes.
import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { gzipSync } from 'node:zlib'

/** The modules of a bundle that import each other, the main module first. */
interface Bundle {
  /** What an isolate loads before its first answer. */
  readonly start: readonly string[]
  /** What it loads when it is needed. */
  readonly later: readonly string[]
}

const STATIC = /\b(?:from|import)\s*["'](\.\/[^"']+)["']/g
const DYNAMIC = /\bimport\(\s*["'`](\.\/[^"'`]+)["'`]\s*\)/g

/** Follows the imports of a main module. */
export function bundleOf(main: string): Bundle {
  const start = new Set([main])
  const later = new Set<string>()
  for (const path of start) {
    const code = readFileSync(path, 'utf8')
    for (const [, name = ''] of code.matchAll(STATIC)) start.add(join(dirname(path), name))
    for (const [, name = ''] of code.matchAll(DYNAMIC)) later.add(join(dirname(path), name))
  }
  return { start: [...start], later: [...later.difference(start)] }
}

/** The size of these modules, each of them gzipped. */
export function gzippedKib(paths: readonly string[]): number {
  const bytes = paths.map((path) => gzipSync(readFileSync(path), { level: 9 }).length)
  return bytes.reduce((sum, each) => sum + each, 0) / 1024
}
