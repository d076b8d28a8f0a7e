// The static files as wrangler serves them: their headers, and that the Worker answers all other paths.
import { execFileSync } from 'node:child_process'
import { readdirSync, readFileSync, statSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { completionOf } from '../support/answers.ts'
import { HOST } from '../support/client.ts'
import { startWorkers, type Workers } from '../support/workerd.ts'

let workers: Workers

beforeAll(async () => {
  workers = await startWorkers({ site: true })
})

afterAll(() => workers.dispose())

/** Requests a path as a browser does when navigating. */
async function visit(path: string, init: RequestInit = {}): Promise<Response> {
  return await fetch(new URL(path, workers.url), {
    redirect: 'manual',
    ...init,
    headers: { accept: 'text/html', 'sec-fetch-mode': 'navigate', ...init.headers },
  })
}

const files = [
  ['/', 'text/html'],
  ['/admin', 'text/html'],
  ['/style.css', 'text/css'],
  ['/playground.js', 'text/javascript'],
  ['/admin.js', 'text/javascript'],
  ['/uplot.js', 'text/javascript'],
  ['/uplot.css', 'text/css'],
  ['/icon.svg', 'image/svg+xml'],
  ['/client.js', 'text/javascript'],
  ['/client.d.ts', 'text/plain'],
  ['/elements.js', 'text/javascript'],
  ['/edge-ask.js', 'text/javascript'],
  ['/cites.js', 'text/javascript'],
  ['/demo-text.txt', 'text/plain'],
  ['/references.txt', 'text/plain'],
  ['/hints.json', 'application/json'],
  ['/openapi-template.json', 'application/json'],
] as const

test.each(files)('%s is served with a strict Content-Security-Policy', async (path, type) => {
  const { status, headers } = await visit(path)
  expect(status).toBe(200)
  expect(headers.get('content-type')?.split(';')[0]).toBe(type)
  expect(headers.get('x-content-type-options')).toBe('nosniff')
  expect(headers.get('referrer-policy')).toBe('no-referrer')
  expect(headers.get('vary')).toMatch(/(^|, )Origin(,|$)/)
  const policy = (headers.get('content-security-policy') ?? '').split('; ')
  expect(policy).toContain("default-src 'none'")
  expect(policy).toContain("frame-ancestors 'none'")
  expect(policy.join()).not.toMatch(/unsafe|\*/)
  const foreign = policy.flatMap((directive) => directive.match(/https?:\S+/g) ?? [])
  expect(new Set(foreign)).toEqual(new Set(['https://challenges.cloudflare.com']))
  const isShared = /^\/(client|elements|edge-ask)\./.test(path)
  expect(headers.get('cache-control')).toBe(isShared ? 'public, max-age=3600' : 'no-cache')
  expect(headers.get('access-control-allow-origin')).toBe(isShared ? '*' : null)
  expect((await visit(path, { method: 'HEAD' })).status).toBe(200)
  const again = await visit(path, { headers: { 'if-none-match': headers.get('etag') ?? '' } })
  expect(again.status).toBe(304)
})

test('the Worker reads the demo model’s text from the files', async () => {
  const { choices } = completionOf(
    await workers.client().complete({ prompt: 'Alice was' }, { origin: `http://${HOST}` }),
  )
  expect(choices[0]?.text.trim()).not.toBe('')
})

test('other spellings of a page’s path redirect to it', async () => {
  for (const [path, to] of [
    ['/index.html', '/'],
    ['/admin.html', '/admin'],
    ['/admin/', '/admin'],
  ] as const) {
    const { status, headers } = await visit(path)
    expect([status, headers.get('location')], path).toEqual([307, to])
  }
})

test.each([
  ['/v1/models', 200],
  ['/v1/completions?prompt=never', 404],
  ['/health', 200],
  ['/openapi.json', 200],
  ['/admin/usage', 401],
  ['/nothing', 404],
  ['/nothing.html', 404],
  ['/_headers', 404],
  ['/tsconfig.json', 404],
  ['/uplot.d.ts', 404],
])(
  '%s is answered by the Worker with JSON and %i, even when navigated to',
  async (path, status) => {
    const response = await visit(path)
    expect(response.status).toBe(status)
    expect(response.headers.get('content-type')).toBe('application/json')
    expect(response.headers.get('x-request-id')).toMatch(/^req_/)
    expect(await response.json()).toBeTypeOf('object')
  },
)

describe('the files', () => {
  test('contain no inline script or style and no reference to another host', () => {
    for (const name of ['index.html', 'admin.html']) {
      const html = readFileSync(`src/site/${name}`, 'utf8')
      expect(html, name).not.toMatch(/<style|\sstyle=|\son\w+=|javascript:|https?:\/\//)
      for (const [, attributes, body] of html.matchAll(/<script([^>]*)>([^<]*)/g)) {
        expect([attributes?.includes('src="/'), body], name).toEqual([true, ''])
      }
    }
  })

  test('never parse text as HTML or code', () => {
    const scripts = readdirSync('src/site', { recursive: true })
      .map(String)
      .filter((name) => name.endsWith('.js'))
    expect(scripts.length).toBeGreaterThan(5)
    for (const name of scripts) {
      const source = readFileSync(`src/site/${name}`, 'utf8')
      expect(source, name).not.toMatch(
        /innerHTML|outerHTML|insertAdjacentHTML|document\.write|setHTML|\beval\(|new Function/,
      )
    }
  })

  test('include the licence of uPlot', () => {
    for (const name of ['uplot.js', 'uplot.css']) {
      const source = readFileSync(`dist/site/${name}`, 'utf8')
      expect(source.slice(0, 600), name).toContain('Permission is hereby granted')
      expect(source.slice(0, 600), name).toContain('Leon Sorokin')
    }
  })

  test('are not rewritten by a second build', () => {
    const times = () =>
      readdirSync('dist/site').map((name) => [name, statSync(`dist/site/${name}`).mtimeMs])
    const before = times()
    execFileSync(process.execPath, ['scripts/build-site.ts'])
    expect(times()).toEqual(before)
  })
})
