// What setup knows about each site generator: how to recognise it, and where its text is.

interface Generator {
  readonly name: string
  /** Matches `<meta name="generator">`. */
  readonly meta: RegExp
  /** What its pages contain. */
  readonly traces: RegExp | null
  /** Where the text of a page is, in its usual themes. */
  readonly selector: string
}

const article = 'article, main, body'

/** By id, in the order in which they are tried: some also leave traces of those after them. @internal exported for its tests */
export const generators = {
  docusaurus: {
    name: 'Docusaurus',
    meta: /^docusaurus/i,
    traces: /id="?__docusaurus|data-theme="?docusaurus/,
    selector: '.theme-doc-markdown, article, main',
  },
  vitepress: {
    name: 'VitePress',
    meta: /^vitepress/i,
    traces: /__VP_HASH_MAP__|id="?VPContent/,
    selector: '.vp-doc, .VPHome, main, body',
  },
  astro: {
    name: 'Astro',
    meta: /^(astro|starlight)/i,
    traces: /\/_astro\/|<astro-island|data-astro-cid-/,
    selector: article,
  },
  eleventy: { name: 'Eleventy', meta: /^eleventy/i, traces: null, selector: article },
  hugo: { name: 'Hugo', meta: /^hugo/i, traces: null, selector: article },
  jekyll: {
    name: 'Jekyll',
    meta: /^jekyll/i,
    traces: /Begin Jekyll SEO tag/,
    selector: '.post-content, .page-content, article, main, body',
  },
  hexo: {
    name: 'Hexo',
    meta: /^hexo/i,
    traces: null,
    selector: '.article-entry, .post-body, article, main, body',
  },
  gatsby: { name: 'Gatsby', meta: /^gatsby/i, traces: /id="?___gatsby/, selector: article },
  next: {
    name: 'Next.js',
    meta: /^next\.?js/i,
    traces: /\/_next\/static\/|id="?__NEXT_DATA__/,
    selector: article,
  },
  wordpress: {
    name: 'WordPress',
    meta: /^wordpress/i,
    traces: /\/wp-(content|includes|json)\//,
    selector: '.entry-content, article, main, body',
  },
} as const satisfies Record<string, Generator>

/** `html`: a page without traces of any generator. */
export type GeneratorId = keyof typeof generators | 'html'

export const nameOf = (id: GeneratorId) => (id === 'html' ? 'plain HTML' : generators[id].name)
export const selectorOf = (id: GeneratorId) => (id === 'html' ? article : generators[id].selector)

/** Recognises the generator of a page: by its meta element, else by its traces. */
export function generatorOf(html: string): GeneratorId {
  const list = Object.entries(generators) as [GeneratorId, Generator][]
  // Not beyond a "<": many elements without ">" would take quadratic time.
  for (const [element] of html.matchAll(/<meta\s[^<>]*>/gi)) {
    if (attribute(element, 'name')?.toLowerCase() !== 'generator') continue
    const content = attribute(element, 'content')?.trim() ?? ''
    const found = list.find(([, { meta }]) => meta.test(content))
    if (found !== undefined) return found[0]
  }
  return list.find(([, { traces }]) => traces?.test(html))?.[0] ?? 'html'
}

/** Minifiers leave out the quotes of an attribute. */
function attribute(element: string, name: string): string | undefined {
  const found = new RegExp(`\\s${name}\\s*=\\s*(?:"([^"]*)"|'([^']*)'|([^\\s"'>]+))`, 'i')
  const [, double, single, bare] = found.exec(element) ?? []
  return double ?? single ?? bare
}
