import { expect } from 'vitest'
import type { WorkerLog } from './worker-log.ts'

/** Expects no runtime messages, no internal errors, and one log line per request. */
export function expectQuiet(log: WorkerLog): void {
  expect(log.takeRuntimeLines()).toEqual([])
  expect(log.all('internal')).toEqual([])
  expect(log.reportedTwice()).toEqual([])
}
