// Runs a plan within its time, and judges what comes back.

import { someAtOnce } from '../operator/concurrent.ts'
import { codeIn, type Gateway } from '../operator/gateway.ts'
import { type Figures, readFigures } from './figures.ts'
import { budgetFaults, faultsOf, generatedTokens } from './judge.ts'
import { type Received, send } from './send.ts'
import type { Shot, Volley } from './shot.ts'

export interface Result {
  readonly before: Figures
  /** Null: the figures could not be read any more. */
  readonly after: Figures | null
  /** By attack. */
  readonly counts: ReadonlyMap<string, Counts>
  /** By the code of the error, or by its status. */
  readonly refusals: ReadonlyMap<string, number>
  /** Every broken promise, with how often and where it was first seen. */
  readonly faults: readonly Fault[]
}

interface Counts {
  readonly answered: number
  readonly refused: number
  /** Disconnected on purpose, cut off at the end, or a connection that failed. */
  readonly ended: number
}

interface Fault {
  readonly what: string
  readonly times: number
  /** An attack and a request id. */
  readonly where: string
}

export interface RunOptions {
  readonly url: URL
  readonly seconds: number
  /** Texts that no response may have. */
  readonly secrets: readonly string[]
}

export interface RunContext {
  readonly gateway: Gateway
  /** Aborted by Ctrl-C. */
  readonly signal: AbortSignal
  /** Resolves early if the signal is aborted. */
  readonly wait: (ms: number, signal: AbortSignal) => Promise<void>
  readonly onProgress?: (sent: number) => void
}

/** Volleys under way at the same time. */
const CONCURRENCY = 6
const SAMPLE_MS = 1000
/** Calls whose visitors have left may still run. */
const SETTLE_TRIES = 20
const SETTLE_MS = 500

export async function attack(
  plan: readonly Volley[],
  options: RunOptions,
  context: RunContext,
): Promise<Result> {
  const before = await readFigures(context.gateway)
  const timeout = AbortSignal.timeout(options.seconds * 1000)
  const over = new AbortController()
  const stop = AbortSignal.any([context.signal, timeout])
  const notes = new Notes(options.secrets, context.onProgress)
  const sampling = sample(context, over.signal)
  await someAtOnce(plan, CONCURRENCY, stop, (volley) => fire(volley, options.url, stop, notes))
  over.abort()
  const samples = [...(await sampling), ...(await settled(context))]
  const { generated } = notes
  for (const what of budgetFaults({ before, samples, generated })) notes.fault(what, 'the budget')
  return {
    before,
    after: samples.at(-1) ?? null,
    counts: notes.counts,
    refusals: notes.refusals,
    faults: [...notes.faults.values()],
  }
}

async function fire({ name, order, shots }: Volley, url: URL, stop: AbortSignal, notes: Notes) {
  let resumeFrom = 'cmpl-never:0'
  const one = async (shot: Shot) => {
    if (stop.aborted) return
    const received = await send(shot, { url, resumeFrom, signal: stop })
    const [, id] = /"id":\s*"(cmpl-\w+)"/.exec(received.text) ?? []
    if (id !== undefined) resumeFrom = `${id}:1`
    notes.add(name, shot, received)
  }
  if (order === 'at once') await Promise.all(shots.map(one))
  else for (const shot of shots) await one(shot)
}

/** The figures once a second until the signal is aborted. Those that cannot be read are left out. */
async function sample({ gateway, wait }: RunContext, over: AbortSignal): Promise<Figures[]> {
  const samples: Figures[] = []
  while (!over.aborted) {
    await wait(SAMPLE_MS, over)
    const figures = await readFigures(gateway).catch(() => null)
    if (figures !== null) samples.push(figures)
  }
  return samples
}

/** The figures when no call is running any more, or after ten seconds. Empty: they cannot be read. */
async function settled({ gateway, wait, signal }: RunContext): Promise<Figures[]> {
  for (let tries = 1; ; tries++) {
    const figures = await readFigures(gateway).catch(() => null)
    const isLast = tries === SETTLE_TRIES || signal.aborted
    if (figures?.reserved === 0 || isLast) return figures === null ? [] : [figures]
    await wait(SETTLE_MS, signal)
  }
}

/** What was seen so far. */
class Notes {
  readonly counts = new Map<string, Counts>()
  readonly refusals = new Map<string, number>()
  readonly faults = new Map<string, Fault>()
  generated = 0
  readonly #secrets: readonly string[]
  readonly #onProgress: RunContext['onProgress']
  #sent = 0

  constructor(secrets: readonly string[], onProgress: RunContext['onProgress']) {
    this.#secrets = secrets
    this.#onProgress = onProgress
  }

  add(attack: string, shot: Shot, received: Received): void {
    const { status, text, headers } = received
    const kind = status === 0 ? 'ended' : status >= 400 ? 'refused' : 'answered'
    const counts = this.counts.get(attack) ?? { answered: 0, refused: 0, ended: 0 }
    this.counts.set(attack, { ...counts, [kind]: counts[kind] + 1 })
    if (kind === 'refused') {
      const code = codeIn(text) ?? String(status)
      this.refusals.set(code, (this.refusals.get(code) ?? 0) + 1)
    }
    this.generated += generatedTokens(received)
    const place = `${attack}, ${shot.method} ${shot.path.split('?')[0]}, ${headers.get('x-request-id') ?? 'no id'}`
    for (const what of faultsOf(shot, received, this.#secrets)) this.fault(what, place)
    this.#sent += 1
    this.#onProgress?.(this.#sent)
  }

  fault(what: string, where: string): void {
    const known = this.faults.get(what)
    this.faults.set(what, known ? { ...known, times: known.times + 1 } : { what, where, times: 1 })
  }
}
