// Questions on a terminal: what is typed, and what is seen.
import { PassThrough } from 'node:stream'
import { expect, test } from 'vitest'
import { Interrupted, terminalOn } from '../../../scripts/setup/terminal.ts'

function open() {
  const input = Object.assign(new PassThrough(), { isTTY: true })
  const output = Object.assign(new PassThrough(), { isTTY: true })
  const seen: string[] = []
  output.on('data', (chunk) => seen.push(String(chunk)))
  return { input, seen: () => seen.join(''), terminal: terminalOn({ input, output }) }
}

test('an answer is a line, and is seen', async () => {
  const { input, seen, terminal } = open()
  const answer = terminal.ask('Site: ')
  input.write('example.com\r')
  expect(await answer).toBe('example.com')
  expect(seen()).toContain('example.com')
})

test('a key is not seen', async () => {
  const { input, seen, terminal } = open()
  const answer = terminal.ask('Key: ', { hidden: true })
  input.write('secret\r')
  expect(await answer).toBe('secret')
  expect(seen()).toBe('Key: \n')
})

test('several questions follow each other', async () => {
  const { input, terminal } = open()
  for (const line of ['one', 'two']) {
    const answer = terminal.ask('? ')
    input.write(`${line}\r`)
    expect(await answer).toBe(line)
  }
})

test.each([
  ['Ctrl-C', (input: PassThrough) => input.write('\x03')],
  ['the end of the input', (input: PassThrough) => input.end()],
])('%s ends the question', async (_, stop) => {
  const { input, terminal } = open()
  const answer = terminal.ask('? ')
  stop(input)
  await expect(answer).rejects.toThrow(Interrupted)
})

test('piped input is read whole, and nobody can be asked', async () => {
  const input = new PassThrough()
  const terminal = terminalOn({ input, output: new PassThrough() })
  expect(terminal.isInteractive).toBe(false)
  input.end('a\nb\n')
  expect(await terminal.readInput()).toBe('a\nb\n')
})
