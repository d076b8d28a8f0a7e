import { expect, test } from 'vitest'
import { parseArguments } from '../../../scripts/attack/arguments.ts'

const parse = (...args: string[]) => parseArguments(['--url', 'https://edge.test', ...args], 42)

test('has defaults, and a new seed', () => {
  expect(parse()).toEqual({
    url: 'https://edge.test/',
    requests: 300,
    seconds: 60,
    seed: 42,
    dryRun: false,
    yes: false,
    anyOrigin: false,
  })
})

test('takes every option', () => {
  const all = parse('--requests', '9', '--seconds', '5', '--seed', '0', '--dry-run', '--yes')
  expect(all).toMatchObject({ requests: 9, seconds: 5, seed: 0, dryRun: true, yes: true })
  expect(parse('--any-origin')?.anyOrigin).toBe(true)
  expect(parse('--help')).toBeNull()
})

test.each([
  [['--requests', '0'], 'Cannot use --requests "0": expected a whole number from 1 to 100000'],
  [['--requests', '1e3'], 'Cannot use --requests "1e3"'],
  [['--seconds', '3601'], 'Cannot use --seconds "3601": expected a whole number from 1 to 3600'],
  [['--seed', '-1'], '--seed'],
  [['--url', 'edge.test'], 'Cannot use --url'],
  [['https://other.test'], 'Cannot use "https://other.test"'],
  [['--colour'], 'Usage'],
])('refuses %j', (args, message) => {
  expect(() => parse(...args)).toThrow(message)
})
