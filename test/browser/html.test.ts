// Compares our HTML parser with Chromium: the trees of thousands of documents of random tags (with fixed
// seeds), and every character reference.
import type { Browser, Page } from 'playwright-core'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Element } from '../../src/html/node.ts'
import { decodeReferences } from '../../src/html/references.ts'
import { launchBrowser } from '../support/browser.ts'
import { parse, references } from '../support/html.ts'
import { pick, type Random, seeded } from '../support/random.ts'

/** The name, the shadow tree and the children. */
type Tree = readonly [string, readonly Node[] | null, readonly Node[]]
type Node = Tree | string

let browser: Browser
let page: Page

beforeAll(async () => {
  browser = await launchBrowser()
  page = await browser.newPage()
  await page.route('http://documents.test/', async (route) => {
    await route.fulfill({ body: '<!doctype html><title>.</title><body>', contentType: 'text/html' })
  })
  await page.goto('http://documents.test/')
  await page.evaluate(inPage)
})

afterAll(async () => {
  await browser?.close()
})

/** Runs in the page: `treesOf(documents)` loads each document in its own frame. */
const inPage = `
  const shown = ({ nodeType }) => nodeType === 1 || nodeType === 3 || nodeType === 4
  const namespaces = { 'http://www.w3.org/2000/svg': 'svg ', 'http://www.w3.org/1998/Math/MathML': 'math ' }
  const treeOf = (node) => {
    if (node.nodeType !== 1) return node.data
    const { namespaceURI, localName, content, shadowRoot } = node
    const inside = ({ childNodes }) => [...childNodes].filter(shown).map(treeOf)
    return [
      (namespaces[namespaceURI] ?? '') + localName.toLowerCase(),
      shadowRoot ? inside(shadowRoot) : null,
      inside(localName === 'template' && content ? content : node),
    ]
  }
  const load = async (html) => {
    const frame = document.createElement('iframe')
    const url = URL.createObjectURL(new Blob([html], { type: 'text/html; charset=utf-8' }))
    await new Promise((resolve) => {
      frame.onload = resolve
      frame.src = url
      document.body.append(frame)
    })
    const tree = treeOf(frame.contentDocument.documentElement)
    frame.remove()
    URL.revokeObjectURL(url)
    return tree
  }
  window.treesOf = async (documents) => {
    const trees = []
    const rest = documents.entries()
    const loader = async () => {
      for (const [i, html] of rest) trees[i] = await load(html)
    }
    await Promise.all(Array.from({ length: 8 }, loader))
    return trees
  }`

async function treesOf(documents: readonly string[]): Promise<Tree[]> {
  return await page.evaluate<Tree[]>(`treesOf(${JSON.stringify(documents)})`)
}

function ours({ name, namespace, shadow, children }: Element): Tree {
  const nodes = (all: Element['children']) =>
    all.map((node) => (typeof node === 'string' ? node : ours(node)))
  return [
    namespace === 'html' ? name : `${namespace} ${name}`,
    shadow === null ? null : nodes(shadow.children),
    nodes(children),
  ]
}

/** Joins adjacent texts, and removes white space and replacements of NUL. */
function plain([name, shadow, children]: Tree): Tree {
  const nodes = (all: readonly Node[]) => {
    const joined: Node[] = []
    for (const node of all) {
      const last = joined.at(-1)
      if (typeof node !== 'string') joined.push(plain(node))
      else if (typeof last === 'string') joined.splice(-1, 1, last + node)
      else joined.push(node)
    }
    return joined
      .map((node) => (typeof node === 'string' ? node.replaceAll(/[\s\0\ufffd]/g, '') : node))
      .filter((node) => node !== '')
  }
  return [name, shadow === null ? null : nodes(shadow), nodes(children)]
}

const all =
  'a address applet area article b base body br button caption center code col colgroup dd details ' +
  'dialog div dl dt em embed fieldset font foreignObject form h1 h2 head hr html i iframe image img ' +
  'input label legend li link listing main marquee math menu meta mi mo mglyph annotation-xml desc ' +
  'nobr noembed noframes noscript object ol optgroup option p param pre rb rp rt rtc ruby script ' +
  'section select source span style summary svg table tbody td textarea tfoot th thead title tr ' +
  'track u ul wbr x xmp my-el'
/** No tables or forms in templates: Chromium differs from the standard there. */
const vocabularies: Readonly<Record<string, string>> = {
  'all elements': all,
  tables:
    'a b caption col colgroup div form i input math p script select svg table tbody td tfoot th thead tr x',
  formatting: 'a b big button code div em font h1 i li nobr object p span table td tr u x',
  'SVG and MathML':
    'annotation-xml b br desc div font foreignObject malignmark math mglyph mi mn mo ms mtext p script span style svg table td title tr x',
  selects:
    'b button div hr input li optgroup option p script select span svg table td textarea title tr ul x',
  'templates and shadow trees':
    'a article b body div h1 head li my-el option p script select span template title x',
}

const attributes = [
  'id=1',
  'id="a>b"',
  "id='2'",
  'color=red',
  'type=hidden',
  'encoding=text/html',
  'x',
  'a/b',
  '=c',
  'shadowrootmode=open',
] as const
const oddities = [
  '<!-- c -->',
  '<!-->',
  '<?x>',
  '</>',
  '<![CDATA[q]]>',
  '</ z>',
  ' ',
  '\n',
  '<!--!>',
  '<!---!>-->',
  '<!-->-->',
  '</br>',
  '</p>',
  '<',
  '&notit;',
  '&lt',
  '&#x41',
  '\0',
] as const

function documentOf(names: readonly [string, ...string[]], random: Random): string {
  const pieces = [random() < 0.7 ? '<!doctype html>' : '']
  for (let left = 1 + random() * 22; left > 0; left -= 1) {
    const kind = random()
    const name = pick(names, random)
    const attribute = random() < 0.15 ? ` ${pick(attributes, random)}` : ''
    if (kind < 0.42) pieces.push(`<${name}${attribute}${random() < 0.06 ? '/' : ''}>`)
    else if (kind < 0.68) pieces.push(`</${name}>`)
    else if (kind < 0.93) pieces.push(String.fromCharCode(0x61 + pieces.length))
    else pieces.push(pick(oddities, random))
  }
  return pieces.join('')
}

test.each(Object.entries(vocabularies))(
  '300 documents of %s have the same trees as in Chromium',
  async (_, words) => {
    const names = words.split(' ') as [string, ...string[]]
    const documents = Array.from({ length: 300 }, (_, seed) => documentOf(names, seeded(seed)))
    const trees = await treesOf(documents)
    const different = documents.flatMap((html, i) => {
      const mine = JSON.stringify(plain(ours(parse(html))))
      const theirs = JSON.stringify(plain(trees[i] ?? ['none', null, []]))
      return mine === theirs ? [] : [{ html, mine, theirs }]
    })
    expect(different.slice(0, 3)).toEqual([])
  },
)

test('every character reference decodes as in Chromium, with and without a semicolon', async () => {
  const names = [...references.keys()].map((name) => name.replace(';', ''))
  const texts = [...new Set(names)].flatMap((name) => [`&${name};`, `&${name}x`, `&${name} `])
  const theirs = await page.evaluate<string[]>(`${JSON.stringify(texts)}.map((text) => {
    const element = document.createElement('p')
    element.innerHTML = text
    return element.textContent
  })`)
  expect(texts.map((text) => decodeReferences(text, references))).toEqual(theirs)
  expect(texts).toHaveLength(3 * 2125)
})
