// `npm run setup`: from a clone and an API key to a configured Worker, in four questions.
import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { wranglerIn } from './setup/command.ts'
import { setUp } from './setup/setup.ts'
import { terminalOn } from './setup/terminal.ts'

process.exitCode = await setUp(process.argv.slice(2), {
  terminal: terminalOn({ input: process.stdin, output: process.stdout }),
  fetch: (request) => fetch(request),
  wrangler: wranglerIn(process.cwd(), process.env),
  pause: (ms) => sleep(ms),
  folder: process.cwd(),
  newToken: () => randomBytes(24).toString('base64url'),
})
