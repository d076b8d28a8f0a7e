// A fake upstream key that must never be seen: every test puts what left the product (bodies,
// headers, log lines, stored values) into `sinks`, and after each test all of it is searched for the
// key in every form it could have taken.
import { afterEach, expect } from 'vitest'

export const CANARY = 'sk-canary-Zk3vQ9mXwT7rLbN2hYc8'

const sinks: string[] = []

/** Notes something that a stranger, a log or a store got to see. */
export function recordOutput(...texts: readonly string[]): void {
  sinks.push(...texts)
}

/** Every spelling the key could leak in. */
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

/** The first disguise found in a text, or null. */
export function leakIn(text: string): string | null {
  return disguises.find((disguise) => text.includes(disguise)) ?? null
}

afterEach(() => {
  const leaks = sinks
    .splice(0)
    .map(leakIn)
    .filter((leak) => leak !== null)
  expect(leaks, 'the canary key left the Worker').toEqual([])
})
