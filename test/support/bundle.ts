// Builds the Worker once for the whole run, with the same tool that deploys it, and reads
// wrangler.toml. Loading wrangler takes a second, which a test file that starts workerd is spared.
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import type { TestProject } from 'vitest/node'
import {
  experimental_readRawConfig,
  unstable_getDurableObjectClassNameToUseSQLiteMap,
} from 'wrangler'

export type RawConfig = ReturnType<typeof experimental_readRawConfig>['rawConfig']

declare module 'vitest' {
  interface ProvidedContext {
    /** Path of the built Worker. */
    bundle: string
    /** The content of wrangler.toml. */
    wranglerConfig: RawConfig
    /** The Durable Object classes of wrangler.toml, and whether they use SQLite. */
    objectClasses: [name: string, sqlite: boolean][]
  }
}

export default async function setup(project: TestProject): Promise<void> {
  const wrangler = 'node_modules/wrangler/bin/wrangler.js'
  await promisify(execFile)(process.execPath, [wrangler, 'deploy', '--dry-run', '--outdir', 'dist'])
  project.provide('bundle', 'dist/worker.js')
  const { rawConfig } = experimental_readRawConfig({ config: 'wrangler.toml' })
  project.provide('wranglerConfig', rawConfig)
  const classes = unstable_getDurableObjectClassNameToUseSQLiteMap(
    rawConfig.migrations,
    rawConfig.exports,
  )
  project.provide('objectClasses', [...classes])
}
