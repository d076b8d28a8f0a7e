// The benchmark itself: it warms up, alternates, rejects wrong answers, and compares with the targets.
import { execFile } from 'node:child_process'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { exponentOf } from '../../bench/growth.ts'
import { judge, type Reply, textOf } from '../../bench/load.ts'
import { figureOf, inRounds, ratioOf } from '../../bench/measure.ts'
import { isMet, type Row } from '../../bench/report.ts'
import { peerIn } from '../../bench/subjects.ts'

describe('measuring', () => {
  test('figureOf() returns the median and the quartiles', () => {
    expect(figureOf([5, 1, 4, 2, 3])).toEqual({ median: 3, low: 2, high: 4 })
    expect(figureOf([7])).toEqual({ median: 7, low: 7, high: 7 })
  })

  test('inRounds() alternates the order of the sides and discards the first round', async () => {
    const calls: string[] = []
    const values = await inRounds(['a', 'b'], 2, async (side, round) => {
      calls.push(side)
      return round
    })
    expect(calls.join('')).toBe('abbaab')
    expect(values).toEqual([
      [0, 1],
      [0, 1],
    ])
  })

  test('ratioOf() computes the ratio per round', () => {
    expect(ratioOf([10, 40, 90], [10, 20, 30]).median).toBe(2)
  })

  test('exponentOf() uses the larger sizes and ignores failed ones', () => {
    const us = (...values: number[]) => values.map((value) => figureOf([value]))
    expect(exponentOf([1, 10, 100], us(5, 10, 100))).toBeCloseTo(1)
    expect(exponentOf([1, 10, 100], us(900, 10, 10))).toBeCloseTo(0)
    expect(exponentOf([1, 10, 100, 1000], us(1, 10, 1000, Number.NaN))).toBeCloseTo(2)
  })

  test('isMet() compares with the minimum share or the maximum figure', () => {
    const row: Row = { what: 'x', unit: 'µs', ours: figureOf([10]), share: figureOf([0.8]) }
    expect(isMet(row)).toBe(null)
    expect(isMet({ ...row, target: { least: 0.8 } })).toBe(true)
    expect(isMet({ ...row, target: { least: 0.81 } })).toBe(false)
    expect(isMet({ ...row, target: { most: 10 } })).toBe(true)
    expect(isMet({ ...row, target: { most: 9 } })).toBe(false)
  })
})

describe('answers', () => {
  const event = (object: object) => `data: ${JSON.stringify(object)}\n\n`
  const DONE = 'data: [DONE]\n\n'
  const reply = (text: string, more: Partial<Reply> = {}): Reply => ({
    status: 200,
    headers: {
      'content-type': text.startsWith('data:') ? 'text/event-stream' : 'application/json',
    },
    text,
    bytes: text.length,
    firstTextMs: 1,
    ...more,
  })
  const streamed = `${event({ choices: [{ text: 'ab' }] })}${event({ choices: [{ text: 'c' }] })}`

  test('textOf() returns the same text for every shape', () => {
    const { stringify } = JSON
    expect(textOf(stringify({ choices: [{ text: 'abc' }] }))).toBe('abc')
    expect(textOf(stringify({ choices: [{ message: { content: 'abc' } }] }))).toBe('abc')
    expect(textOf(streamed + event({ choices: [], usage: {} }) + DONE)).toBe('abc')
    const chat =
      event({ choices: [{ delta: { content: 'abc' } }] }) + event({ choices: [{ delta: {} }] })
    expect(textOf(chat + DONE)).toBe('abc')
  })

  test.each([
    ['an error', reply('{"error":{"code":"x"}}', { status: 503 })],
    ['a different text', reply('{"choices":[{"text":"abd"}]}')],
    ['a stream without [DONE]', reply(streamed)],
    ['a stream with less text', reply(event({ choices: [{ text: 'ab' }] }) + DONE)],
  ])('judge() throws an error for %s', (_, wrong) => {
    expect(() => judge(wrong, 'abc')).toThrow(/not the right answer/)
    expect(() => judge(reply(streamed + DONE), 'abc')).not.toThrow()
  })
})

describe('another gateway', () => {
  let folder: string
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'peer-'))
  })
  afterAll(async () => {
    await rm(folder, { recursive: true })
  })

  test('is compared with ours, using the variables and headers of its peer.json', async () => {
    expect(() => peerIn(folder)).toThrow(/expected one .js file/)
    const proxy = `export default {
      async fetch(request, env) {
        const { pathname } = new URL(request.url)
        if (request.headers.get('x-tenant') !== 'bench') return new Response('who?', { status: 401 })
        return await fetch(env.BASE + pathname.slice('/v1'.length), request)
      },
    }`
    const peer = {
      name: 'plain proxy',
      vars: { BASE: '{upstream}' },
      headers: { 'x-tenant': 'bench' },
    }
    await writeFile(join(folder, 'index.js'), proxy)
    await writeFile(join(folder, 'peer.json'), JSON.stringify(peer))
    const out = join(folder, 'figures.json')
    const page = await readFile('docs/performance.md', 'utf8')
    const args = ['bench/run.ts', '--quick', '--only', 'miss, JSON', '--peer', folder, '--out', out]
    const { stdout } = await promisify(execFile)(process.execPath, args, { timeout: 100_000 })
    const { rows, failures } = JSON.parse(await readFile(out, 'utf8'))
    expect(failures).toEqual([])
    const row = rows.find(({ against }: Row) => against === 'plain proxy')
    expect(row.share.median).toBeGreaterThan(0)
    // A plain proxy costs less than a Worker that caches, joins and accounts.
    expect(row.theirs.median).toBeLessThan(row.ours.median)
    expect(stdout).toContain('plain proxy')
    expect(await readFile('docs/performance.md', 'utf8')).toBe(page)
  }, 110_000)
})
