// Builds the Worker once for the whole run, with the same tool that deploys it.
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import type { TestProject } from 'vitest/node'

declare module 'vitest' {
  interface ProvidedContext {
    /** Path of the built Worker. */
    bundle: string
  }
}

export default async function setup(project: TestProject): Promise<void> {
  const wrangler = 'node_modules/wrangler/bin/wrangler.js'
  await promisify(execFile)(process.execPath, [wrangler, 'deploy', '--dry-run', '--outdir', 'dist'])
  project.provide('bundle', 'dist/worker.js')
}
