// The code that setup prints: each generator has some for each offer, and all of it is code.
import { describe, expect, test } from 'vitest'
import { parseAst } from 'vitest/node'
import { type GeneratorId, generators } from '../../../scripts/setup/generators.ts'
import { snippetFor } from '../../../scripts/setup/snippets.ts'

const ids = [...(Object.keys(generators) as GeneratorId[]), 'html'] as const
const endpoint = 'https://ai.example.com'

describe.each(ids)('the snippet for %s', (generator) => {
  const steps = snippetFor({ generator, endpoint, offer: ['summaries', 'ask', 'free'] })
  const all = steps.map(({ code }) => code).join('\n')

  test('has a summary, a search box and a chat, from this Worker', () => {
    expect(all).toContain(`${endpoint}/elements.js`)
    expect(all).toMatch(/edge-summary.*prompt.*summary/)
    expect(all).toMatch(/edge-ask.*prompt.*ask/)
    // Without a prompt, its messages are free prompts.
    expect(all).toMatch(/edge-chat(?!.*prompt)/)
  })

  test('names a place for each piece', () => {
    for (const { place } of steps) {
      expect(place).toMatch(/^(In|A new file|Where) /)
      expect(place).not.toContain('undefined')
    }
    expect(new Set(steps.map(({ place }) => place)).size).toBe(steps.length)
  })

  test('can be parsed, and has nothing that a template takes for its own', () => {
    expect(all).not.toMatch(/\{\{|\{%|\{#|<%/)
    for (const { code } of steps) {
      if (code.startsWith('<')) expect(code).toMatch(/^(<([\w-]+)[^<>]*><\/\2>\n){2}$/)
      // The pieces of a list end with a comma, so that they can be put before others.
      else if (/,\n$/.test(code)) expect(() => parseAst(`[${code}]`), code).not.toThrow()
      else expect(() => parseAst(code, { lang: 'jsx' }), code).not.toThrow()
    }
  })

  test('can be put before what is in a list already', () => {
    const ofLists = steps.filter(({ place }) => /\blist\b/.test(place))
    for (const { code } of ofLists) expect(code).toMatch(/,\n$/)
  })

  test('has only what is offered', () => {
    const ask = snippetFor({ generator, endpoint, offer: ['ask'] })
    expect(JSON.stringify(ask)).not.toMatch(/summary|chat/i)
    expect(JSON.stringify(ask)).toContain('elements.js')
    const free = JSON.stringify(snippetFor({ generator, endpoint, offer: ['free'] }))
    expect(free).not.toMatch(/summary|\bask\b|prompt/i)
    expect(free).toMatch(/elements\.js.*edge-chat/)
  })
})
