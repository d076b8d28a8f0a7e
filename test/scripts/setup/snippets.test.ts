// The snippets that setup prints: each generator has one for each offer, and each is code.
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { parseAst } from 'vitest/node'
import { type GeneratorId, generators } from '../../../scripts/setup/generators.ts'
import { type Client, clientHas, snippetsFor } from '../../../scripts/setup/snippets.ts'

const ids = [...(Object.keys(generators) as GeneratorId[]), 'html'] as const
const clients: Client[] = ['client', 'elements']
const cases = ids.flatMap((generator) => clients.map((client) => [generator, client] as const))
const endpoint = 'https://ai.example.com'

describe.each(cases)('the snippets for %s with %s.js', (generator, client) => {
  const snippets = snippetsFor({ generator, client, endpoint, offer: ['summaries', 'ask', 'free'] })

  test('are a summary and a chat box, from this Worker', () => {
    const codes = snippets.map(({ steps }) => steps.map(({ code }) => code).join('\n'))
    expect(codes).toHaveLength(2)
    for (const code of codes) {
      expect(code).toContain(`${endpoint}/${client}.js`)
      expect(code).not.toContain('ENDPOINT')
      expect(code).not.toContain('innerHTML')
    }
    expect(codes[0]).toMatch(client === 'elements' ? /edge-summary.*summary/ : /id: 'summary'/)
    expect(codes[1]).toMatch(client === 'elements' ? /edge-chat.*helper/ : /model: 'helper'/)
  })

  test('name a place for each piece', () => {
    for (const { place } of snippets.flatMap(({ steps }) => steps)) {
      expect(place).toMatch(/^(In|A new file) /)
    }
  })

  test('hold scripts that can be parsed, and nothing that a template takes for its own', () => {
    for (const { place, code } of snippets.flatMap(({ steps }) => steps)) {
      expect(code).not.toMatch(/\{\{|\{%|\{#|<%/)
      for (const script of scriptsIn(place, code)) {
        expect(() => parseAst(script, { lang: 'jsx' }), script).not.toThrow()
      }
    }
  })
})

/** The modules in a piece: the whole of it, or its scripts. */
function scriptsIn(place: string, code: string): string[] {
  if (!code.startsWith('<') && !code.startsWith('[')) return [code]
  const scripts = [...code.matchAll(/<script[^>]*>([\s\S]*?)<\/script>/g)].map(
    ([, text = '']) => text,
  )
  expect(scripts.length, place).toBe(code.startsWith('[') ? 0 : 1)
  return scripts
}

test('what is not offered has no snippet', () => {
  const titles = (offer: ('summaries' | 'ask' | 'free')[]) =>
    snippetsFor({ generator: 'hugo', client: 'client', endpoint, offer }).map(({ title }) => title)
  expect(titles(['ask'])).toEqual(['A chat box'])
  expect(titles(['free'])).toEqual([])
})

test('elements are printed as soon as the Worker has them', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'snippets-'))
  await mkdir(join(folder, 'src/site/elements'), { recursive: true })
  expect(await clientHas(folder)).toBe('client')
  await writeFile(join(folder, 'src/site/elements/index.js'), '')
  expect(await clientHas(folder)).toBe('elements')
  await rm(folder, { recursive: true })
})
