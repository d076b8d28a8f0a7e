// The code to paste into a site, for each generator: what setup prints, and what tests paste. None of
// it contains "{{", "{%" or "{#", which templates would take for their own. docs/elements.md describes
// the elements.
import type { Offer } from './arguments.ts'
import type { GeneratorId } from './generators.ts'

export interface SnippetOptions {
  readonly generator: GeneratorId
  readonly offer: readonly Offer[]
  /** The address of the Worker. */
  readonly endpoint: string
}

/** A file to create or to change. */
interface Step {
  /** For people: the file, and where in it. */
  readonly place: string
  readonly code: string
}

/** What shows an offer to visitors. */
interface Part {
  readonly offer: Offer
  readonly tag: string
  /** Null: what visitors write is the prompt. */
  readonly prompt: string | null
  /** The name of its component. */
  readonly component: string
}

const parts: readonly Part[] = [
  { offer: 'summaries', tag: 'edge-summary', prompt: 'summary', component: 'EdgeSummary' },
  { offer: 'ask', tag: 'edge-ask', prompt: 'ask', component: 'EdgeAsk' },
  { offer: 'free', tag: 'edge-chat', prompt: null, component: 'EdgeChat' },
]

/** What to paste, in order. */
export function snippetFor({ generator, offer, endpoint }: SnippetOptions): Step[] {
  const shown = parts.filter((part) => offer.includes(part.offer))
  const script = `${endpoint}/elements.js`
  if (generator === 'vitepress') return vitepress(shown, script)
  return shown.flatMap((part) => {
    if (components.has(generator)) return [component(generator, part, script), use(generator, part)]
    return [{ place: placeOf(generator, part), code: html(generator, part, script) }]
  })
}

/** Where generators whose templates are HTML have the text of a page. */
const templates: Readonly<Partial<Record<GeneratorId, string>>> = {
  html: 'each page, below its heading',
  astro: 'the layout of your posts, such as src/layouts/BlogPost.astro, above <slot />',
  eleventy: 'the layout of your posts, such as _includes/layouts/post.njk, above the content',
  hugo: 'layouts/_default/single.html (copied from your theme), above .Content',
  jekyll: '_layouts/post.html (copied from your theme), above the content',
  hexo: 'layout/post.ejs of your theme, above the content',
  wordpress: 'a "Custom HTML" block of the template for single posts, above the content',
}

/** What appears where the owner wants it to. */
const nouns = { ask: 'search box', free: 'chat' } as const

function placeOf(generator: GeneratorId, { offer }: Part): string {
  if (offer === 'summaries') return `In ${templates[generator]}`
  const noun = nouns[offer]
  // Hugo leaves HTML out of Markdown.
  const file = `the page content/${offer === 'ask' ? 'ask' : 'chat'}.html (not .md)`
  const page = generator === 'hugo' ? file : 'a page of its own'
  return `Where the ${noun} is to appear, such as ${page}`
}

const attributesOf = ({ prompt }: Part) => (prompt === null ? '' : ` prompt="${prompt}"`)

function html(generator: GeneratorId, part: Part, script: string): string {
  // Astro would bundle the script, and cannot resolve its address.
  const inline = generator === 'astro' ? ' is:inline' : ''
  return `<script${inline} type="module" src="${script}"></script>
<${part.tag}${attributesOf(part)}></${part.tag}>
`
}

/** Generators whose templates are components of React. */
const components: ReadonlySet<GeneratorId> = new Set(['docusaurus', 'next', 'gatsby'])

/**
 * A server may render the component, but only a browser can load the module. Not with import():
 * Docusaurus turns it into require() for its server, and bundlers then look for the address.
 */
function component(generator: GeneratorId, part: Part, script: string): Step {
  const { tag, component } = part
  const folder = generator === 'next' ? 'components' : 'src/components'
  return {
    place: `A new file ${folder}/${component}.jsx`,
    code: `'use client'
import { useEffect } from 'react'

export default function ${component}() {
  useEffect(() => {
    const script = document.createElement('script')
    document.head.append(Object.assign(script, { type: 'module', src: '${script}' }))
  }, [])
  return <${tag}${attributesOf(part)} />
}
`,
  }
}

function use(generator: GeneratorId, { component, offer }: Part): Step {
  if (generator === 'docusaurus' && offer === 'summaries') {
    return {
      place:
        'A new file src/theme/DocItem/Content/index.js (for posts: src/theme/BlogPostItem/Content/index.js, with that name in the first line)',
      code: `import Content from '@theme-original/DocItem/Content'
import ${component} from '@site/src/components/${component}'

export default function ContentWith${component}(props) {
  return (
    <>
      <${component} />
      <Content {...props} />
    </>
  )
}
`,
    }
  }
  const from = {
    docusaurus: `@site/src/components/${component}`,
    next: `@/components/${component}`,
  }[generator as string]
  const post = {
    next: 'the page of your posts, such as app/posts/[slug]/page.jsx',
    gatsby: 'the template of your posts, such as src/templates/blog-post.js',
  }[generator as string]
  return {
    place:
      offer === 'summaries' ? `In ${post}` : `In the page where the ${nouns[offer]} is to appear`,
    code: `import ${component} from '${from ?? `../components/${component}`}'\n\n<${component} />\n`,
  }
}

/** Where VitePress's own layout takes more: each name once. */
const slotOf = { summaries: 'doc-before', ask: 'doc-after', free: 'doc-footer-before' } as const

function vitepress(shown: readonly Part[], script: string): Step[] {
  const slots = shown.map(({ offer, tag, prompt }) => {
    const attributes = prompt === null ? '' : `, { prompt: '${prompt}' }`
    return `    '${slotOf[offer]}': () => h('${tag}'${attributes}),\n`
  })
  return [
    {
      place: 'In .vitepress/config.js, in the list "head" (head: […], if it is missing)',
      code: `['script', { type: 'module', src: '${script}' }],\n`,
    },
    {
      place: 'In .vitepress/theme/index.js (a new file, if you have no theme of your own)',
      code: `import DefaultTheme from 'vitepress/theme'
import { h } from 'vue'

const slots = {
${slots.join('')}}
export default {
  extends: DefaultTheme,
  Layout: () => h(DefaultTheme.Layout, null, slots),
}
`,
    },
  ]
}
