// Turns the hints of failures into sentences, which are read from a static file: only the owner's
// log needs them, so the bundle does without.
import type { Event, Report } from '../events.ts'

/** The static file with the sentences of hints.ts. */
export const HINTS = 'hints.json'

export interface ExplainDeps {
  readonly report: Report
  readonly readFile: (name: string) => Promise<string>
  readonly waitUntil: (work: Promise<unknown>) => void
}

type Hinted = Extract<Event, { readonly hint: string }>

/**
 * Reports events with their hint as a sentence. Those before the sentences have been read are reported
 * in the background; with the key of the hint, if the file cannot be read.
 */
export function explaining({ report, readFile, waitUntil }: ExplainDeps): Report {
  let sentences: ReadonlyMap<string, string> | null = null
  const read = async () =>
    new Map<string, string>(Object.entries(JSON.parse(await readFile(HINTS))))
  const explain = async (event: Hinted) => {
    sentences ??= await read().catch(() => null)
    const keys = event.hint.split(' ')
    const known = keys.find((key) => sentences?.has(key)) ?? ''
    report({ ...event, hint: sentences?.get(known) ?? keys[0]! })
  }
  return (event) => ('hint' in event ? waitUntil(explain(event)) : report(event))
}
