// Turning the pages of a sitemap into requests: which pages are used, and why others are skipped.
import { describe, expect, test } from 'vitest'
import { pagePrompt, pageTasks } from '../../../scripts/operator/pages.ts'

const page = {
  from: 'url',
  paths: ['/posts/*'],
  selector: 'article',
  max_chars: 900,
  page_seconds: 60,
}

/** A response of `GET /v1/prompts`. */
function listed(prompts: Readonly<Record<string, object>>) {
  const data = Object.entries(prompts).map(([id, variables]) => ({
    id,
    object: 'prompt',
    variables,
    visitor_may_set: [],
  }))
  return { object: 'list', data }
}

describe('pagePrompt()', () => {
  test('finds the page variable and the other variables', () => {
    const list = listed({
      story: { hero: { max_chars: 40 } },
      summary: { language: { values: ['English'] }, post: page },
    })
    expect(pagePrompt(list, 'summary')).toEqual({
      id: 'summary',
      variable: 'post',
      paths: ['/posts/*'],
      maxChars: 900,
      others: ['language'],
    })
  })

  test.each([
    ['no prompts', {}, 'Cannot find the prompt "summary": the Worker has no prompts'],
    ['other prompts', { a: {}, b: {} }, 'Cannot find the prompt "summary": the Worker has a, b'],
    ['no page', { summary: { topic: { max_chars: 9 } } }, 'it has no variable { from = "url" }'],
    ['two pages', { summary: { a: page, b: page } }, 'it has several variables { from = "url" }'],
  ])('throws an error for a list with %s', (_, prompts, message) => {
    expect(() => pagePrompt(listed(prompts), 'summary')).toThrow(message)
  })

  test.each([null, {}, { data: [{}] }, 'no'])(
    'throws an error for a foreign response: %j',
    (list) => {
      expect(() => pagePrompt(list, 'summary')).toThrow('Cannot read the list of prompts')
    },
  )
})

describe('pageTasks()', () => {
  const own = new URL('https://edge.example')
  const prompt = { id: 'summary', variable: 'page', paths: ['/*'], maxChars: 9, others: [] }
  const origin = 'https://a.example'
  const from = (...pages: string[]) => ({ origin, pages })

  test('makes one request per page, at its first address and without the fragment', () => {
    const pages = from(
      `${origin}/a/`,
      `${origin}/a.html`,
      `${origin}/b#top`,
      `${origin}/b`,
      `${origin}/ü`,
    )
    const { tasks, skipped } = pageTasks(pages, prompt, {}, own)
    expect(tasks.map(({ name }) => name)).toEqual([
      `${origin}/a/`,
      `${origin}/b`,
      `${origin}/%C3%BC`,
    ])
    expect(tasks[1]?.request).toEqual({
      prompt: { id: 'summary', variables: { page: `${origin}/b` } },
    })
    expect(skipped).toEqual([])
  })

  test('skips other origins, queries, other paths and invalid addresses', () => {
    const pages = from(
      'https://b.example/posts/a',
      'http://a.example/posts/a',
      'https://a.example:8443/posts/a',
      `${origin}/posts/a?page=2`,
      `${origin}/about`,
      '/posts/a',
      `${origin}/posts/a`,
    )
    const { tasks, skipped } = pageTasks(pages, { ...prompt, paths: ['/posts/*', '/x'] }, {}, own)
    expect(tasks.map(({ name }) => name)).toEqual([`${origin}/posts/a`])
    const foreign = `its origin is not ${origin}`
    expect(skipped.map(({ reason }) => reason)).toEqual([
      foreign,
      foreign,
      foreign,
      'its address has a query',
      'its path is not one of the "paths" in CONFIG',
      'it is not the address of a page',
    ])
  })

  test('skips pages that the Worker would refuse', () => {
    const at = (page: string, worker: URL) => {
      const { origin } = new URL(page)
      return pageTasks({ origin, pages: [page] }, prompt, {}, worker)
    }
    expect(at('https://edge.example/a', own).skipped).toEqual([
      { url: 'https://edge.example/a', reason: expect.stringContaining('host of this endpoint') },
    ])
    expect(at('http://localhost:4000/a', own).skipped).toHaveLength(1)
    expect(at('http://localhost:4000/a', new URL('http://localhost:8787')).tasks).toHaveLength(1)
  })

  test('requires a value for each other variable, and only for those', () => {
    const others = { ...prompt, others: ['language'] }
    const { tasks } = pageTasks(from(`${origin}/a`), others, { language: 'Deutsch' }, own)
    expect(tasks[0]?.request).toEqual({
      prompt: { id: 'summary', variables: { language: 'Deutsch', page: `${origin}/a` } },
    })
    expect(() => pageTasks(from(), others, {}, own)).toThrow(
      'Missing the variable "language": add --variable language=…',
    )
    expect(() => pageTasks(from(), prompt, { what: 'x' }, own)).toThrow(
      'Cannot use --variable what: the prompt "summary" has no such variable',
    )
  })
})
