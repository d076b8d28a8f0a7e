// The files of examples/static-site: each link leads somewhere, and all pages agree in what they share.
import { existsSync, readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { documentation } from './support/example-site.ts'

const FOLDER = 'examples/static-site'
const pages = [...documentation, '/story.html']

const fileOf = (path: string) => `${FOLDER}${path.endsWith('/') ? `${path}index.html` : path}`
const textOf = (path: string) => readFileSync(fileOf(path), 'utf8')

test('the sitemap lists the ten pages of the documentation', () => {
  const addresses = [...textOf('/sitemap.xml').matchAll(/<loc>(.*?)<\/loc>/g)]
  const paths = addresses.map(([, address = '']) => address.replace('http://localhost:4000', ''))
  expect(paths.toSorted()).toEqual(documentation.toSorted())
  expect(paths).toHaveLength(10)
})

test.each(pages)('each link of %s leads to a page, and to a place in it', (page) => {
  const links = [...textOf(page).matchAll(/(?:href|src)="(?!http:)(.*?)"/g)]
  expect(links.length).toBeGreaterThan(10)
  const missing = links.filter(([, link = '']) => {
    const [path = '', id] = link.split('#')
    const target = path === '' ? page : path
    if (!existsSync(fileOf(target))) return true
    return id !== undefined && !textOf(target).includes(` id="${id}"`)
  })
  expect(missing).toEqual([])
})

test('all pages share their policy, header and list of pages, and each marks itself in the list', () => {
  const shared = (page: string) => {
    const text = textOf(page)
    expect(text).toContain(`<a href="${page}" aria-current="page">`)
    const parts = /<meta http-equiv.*|<header>[\s\S]*<\/header>|<nav [\s\S]*<\/nav>/g
    return text.match(parts)?.join('\n').replace(' aria-current="page"', '')
  }
  const [first, ...others] = documentation.map(shared)
  expect(first).toContain("default-src 'none'; script-src http://localhost:8787;")
  for (const other of others) expect(other).toBe(first)
  const list = first?.slice(first.indexOf('<nav'))
  expect(shared('/story.html')).toContain(list)
})
