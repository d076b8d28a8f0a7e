// Tries the settings with one real call, through the same code that the Worker runs.
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { parseConfig } from '../../src/config/config.ts'
import { prompts } from '../../src/config/prompts.ts'
import { wait } from '../../src/deadline.ts'
import { createDemo } from '../../src/demo/server.ts'
import { GatewayError } from '../../src/errors.ts'
import type { Event } from '../../src/events.ts'
import { connect } from '../../src/upstream/connection.ts'
import { explaining } from '../../src/upstream/explain.ts'
import { answer } from '../../src/upstream/failover.ts'
import { hints } from '../../src/upstream/hints.ts'
import type { Fetch } from '../operator/gateway.ts'

export type LiveCheck =
  | { readonly kind: 'answered'; readonly tokens: number | null }
  /** `hint` is the sentence that the Worker's log would have. */
  | { readonly kind: 'failed'; readonly status: number | null; readonly hint: string }
  /** Workers AI can be called only by a deployed Worker. */
  | { readonly kind: 'not-here' }

/** A longer answer costs more, and some models begin with a few tokens of reasoning. */
const MAX_TOKENS = 32

const DEMO_TEXT = join(import.meta.dirname, '../../src/demo/text.txt')

export async function tryModel(
  settings: unknown,
  secrets: Readonly<Record<string, string>>,
  fetch: Fetch,
): Promise<LiveCheck> {
  const { config } = parseConfig({
    config: settings,
    prompts,
    secret: (name) => secrets[name],
    bound: () => true,
  })
  const model = config?.models.get('default')
  if (config === null || model === undefined) throw new TypeError('the settings are not valid')
  if ([...config.upstreams.values()].some(({ wire }) => wire === 'workers-ai')) {
    return { kind: 'not-here' }
  }
  const { now, random } = { now: Date.now, random: Math.random }
  const readText = async () => await readFile(DEMO_TEXT, 'utf8')
  const transports = { http: fetch, demo: createDemo({ wait, now, random, readText }) }
  const connections = new Map(
    [...config.upstreams].map(([name, upstream]) => [name, connect(upstream, transports)]),
  )
  const failures: Extract<Event, { event: 'upstream_failed' }>[] = []
  const explained: Promise<unknown>[] = []
  const report = explaining({
    readFile: async () => JSON.stringify(hints),
    waitUntil: (work) => explained.push(work),
    report: (event) => {
      if (event.event === 'upstream_failed') failures.push(event)
    },
  })
  const request = {
    model: model.id,
    prompt_id: null,
    prompts: ['Say hello.'],
    system: null,
    route: model.route,
    parameters: model.parameters,
    max_tokens: MAX_TOKENS,
    n: 1,
  }
  const free = { accepted() {}, settle() {} }
  const context = {
    requestId: 'setup',
    connections,
    stream: true,
    signal: new AbortController().signal,
    now,
    random,
    wait,
    report,
    callsAtOnce: 1,
    reserve: async () => free,
  }
  const sink = { begin() {}, push() {} }
  try {
    const { usage } = await answer(request, context, { attempts: 0, upstream: null }, sink)
    return { kind: 'answered', tokens: usage?.total_tokens ?? null }
  } catch (error) {
    await Promise.all(explained)
    const last = failures.at(-1)
    if (!(error instanceof GatewayError) || last === undefined) throw error
    return { kind: 'failed', status: last.status, hint: last.hint }
  }
}
