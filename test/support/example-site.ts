// The example site, served by its own server on a free port.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync } from 'node:fs'
import { createInterface } from 'node:readline'

/** The paths of the pages that the site documents its product with, as its sitemap has them. */
export const documentation: readonly string[] = [
  '/',
  ...readdirSync('examples/static-site/docs').map((name) => `/docs/${name}`),
]

/** Start it in `beforeAll`, call `stop` in `afterAll`. */
export async function startExampleSite() {
  const child = spawn(process.execPath, ['examples/static-site/serve.mjs', '0'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const [line] = await once(createInterface({ input: child.stdout }), 'line')
  const origin = String(line)
  return {
    origin,
    port: Number(new URL(origin).port),
    stop: () => void child.kill(),
  }
}

export type ExampleSite = Awaited<ReturnType<typeof startExampleSite>>
