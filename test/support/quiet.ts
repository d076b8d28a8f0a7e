// What no suite may leave in the log, whatever it has done.
import { expect } from 'vitest'
import type { WorkerLog } from './worker-log.ts'

/** No line of the runtime's own, no fault of ours, and no request told of twice. */
export function expectQuiet(log: WorkerLog): void {
  expect(log.takeRuntimeLines()).toEqual([])
  expect(log.all('internal')).toEqual([])
  expect(log.reportedTwice()).toEqual([])
}
