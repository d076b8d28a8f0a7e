// Runs the operator's commands as processes, as npm does.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { resolve } from 'node:path'
import { expect } from 'vitest'
import { OPERATOR_TOKEN } from './client.ts'

export interface Exit {
  readonly code: number | null
  readonly out: string
  readonly err: string
}

/** @param folder one of the test, since commands read `.dev.vars` */
export function startCommand(
  script: string,
  args: readonly string[],
  { folder, token = OPERATOR_TOKEN }: { readonly folder: string; readonly token?: string },
) {
  const child = spawn(process.execPath, [resolve(script), ...args], {
    cwd: folder,
    env: { ...process.env, OPERATOR_TOKEN: token },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  return { child, exit: exitOf(child) }
}

async function exitOf(child: ChildProcess): Promise<Exit> {
  let [out, err] = ['', '']
  child.stdout?.on('data', (data) => {
    out += data
  })
  child.stderr?.on('data', (data) => {
    err += data
  })
  const [code] = await once(child, 'close')
  expect(out + err).not.toContain(OPERATOR_TOKEN)
  return { code, out, err }
}
