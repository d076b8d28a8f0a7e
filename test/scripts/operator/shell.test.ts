// Printed commands, as a shell reads them.
import { execFileSync } from 'node:child_process'
import { expect, test } from 'vitest'
import { shellCommand } from '../../../scripts/operator/shell.ts'

test('shellCommand() has a shell take every word literally', () => {
  const words = [
    'https://x.example/?sitemap=index&lang=en',
    'http://x.example/s.xml;echo$IFS/etc;id&x=$(id)',
    '`id`',
    '{"prompt":"don\'t"}',
    'a\nb',
    '*',
    '~',
    '#',
    '!!',
    '\\',
    '',
  ]
  const command = shellCommand('printf', '%s\\0', ...words)
  expect(execFileSync('sh', ['-c', command], { encoding: 'utf8' }).split('\0')).toEqual([
    ...words,
    '',
  ])
})

test('shellCommand() needs no quotes for a usual address', () => {
  const words = ['npm', 'run', 'index', '--', '--sitemap', 'https://example.com/a-b_c.xml?page=1']
  expect(shellCommand(...words)).toBe(`${words.slice(0, -1).join(' ')} '${words.at(-1)}'`)
  expect(shellCommand('--url', 'http://localhost:8787')).toBe('--url http://localhost:8787')
})
