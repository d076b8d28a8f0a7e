// The sentences of hints, which are read from a static file when an upstream call fails.
import { expect, test } from 'vitest'
import type { Event } from '../../src/events.ts'
import { explaining, HINTS } from '../../src/upstream/explain.ts'

const failed = (hint: string): Event => ({
  event: 'upstream_failed',
  request_id: 'r',
  upstream: 'main',
  model: 'm',
  code: 'upstream_unavailable',
  status: 503,
  reason: null,
  hint,
  will: 'give_up',
})

/** Reports with these contents of the file; null: it cannot be read. */
function start(...contents: (string | null)[]) {
  const events: Event[] = []
  const background: Promise<unknown>[] = []
  const reads: string[] = []
  const report = explaining({
    report: (event) => events.push(event),
    waitUntil: (work) => background.push(work),
    readFile: async (name) => {
      const content = contents[Math.min(reads.push(name), contents.length) - 1] ?? null
      if (content === null) throw new Error('HTTP 404')
      return content
    },
  })
  const hints = () => events.map((event) => 'hint' in event && event.hint)
  return { report, events, background, reads, hints }
}

const FILE = '{"model":"Check it.","5":"It failed."}'

test('the first key that has a sentence counts, and the rest of the event stays', async () => {
  const { report, background, events, hints } = start(FILE)
  for (const hint of ['model 503 5', '503 5', 'toString 5']) report(failed(hint))
  await Promise.all(background)
  expect(hints()).toEqual(['Check it.', 'It failed.', 'It failed.'])
  expect(events[0]).toEqual({ ...failed(''), hint: 'Check it.' })
})

test('the file is read with the first failure, and remembered', async () => {
  const { report, background, reads, hints } = start(FILE)
  report({ event: 'settle_failed' })
  expect([reads, hints()]).toEqual([[], [false]])
  report(failed('model'))
  await Promise.all(background)
  report(failed('5'))
  expect(hints()).toEqual([false, 'Check it.', 'It failed.'])
  expect(reads).toEqual([HINTS])
})

test.each([null, 'no JSON'])(
  'if the file is %s, the key is reported, and it is read again',
  async (broken) => {
    const { report, background, hints } = start(broken, FILE)
    for (const hint of ['model 503 5', 'model 503 5']) {
      report(failed(hint))
      await Promise.all(background)
    }
    expect(hints()).toEqual(['model', 'Check it.'])
  },
)

test('an unknown key is reported as it is', async () => {
  const { report, background, hints } = start(FILE)
  report(failed('unknown'))
  await Promise.all(background)
  expect(hints()).toEqual(['unknown'])
})
