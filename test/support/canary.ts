// A fake upstream key that must never leak: tests record all output of the product (bodies,
// headers, log lines, stored values), and after each test the output is searched for the key in
// several encodings.
import { afterEach, expect } from 'vitest'

export const CANARY = 'sk-canary-Zk3vQ9mXwT7rLbN2hYc8'

const sinks: string[] = []

/** Records output to be searched for the key after the test. */
export function recordOutput(...texts: readonly string[]): void {
  sinks.push(...texts)
}

/** The forms in which the key could leak. */
export const disguises: readonly string[] = [
  CANARY,
  encodeURIComponent(CANARY),
  Buffer.from(CANARY).toString('base64').replace(/=+$/, ''),
  Buffer.from(CANARY).toString('base64url'),
  Buffer.from(CANARY).toString('hex'),
  [...CANARY].reverse().join(''),
  CANARY.slice(0, 20),
  CANARY.slice(-12),
]

/** The first form of the key found in a text, or null. */
export function leakIn(text: string): string | null {
  return disguises.find((disguise) => text.includes(disguise)) ?? null
}

afterEach(() => {
  const leaks = sinks
    .splice(0)
    .map(leakIn)
    .filter((leak) => leak !== null)
  expect(leaks, 'the canary key leaked').toEqual([])
})
