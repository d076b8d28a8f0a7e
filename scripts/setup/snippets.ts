// The code to paste into a site, for each generator: what setup prints, and what tests paste. None of
// it contains "{{", "{%" or "{#", which templates would take for their own.
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Offer } from './arguments.ts'
import type { GeneratorId } from './generators.ts'

export interface Snippet {
  readonly title: string
  readonly steps: readonly Step[]
}

/** A file to create or to change. */
interface Step {
  /** For people: the file, and where in it. */
  readonly place: string
  readonly code: string
}

export interface SnippetOptions {
  readonly generator: GeneratorId
  readonly offer: readonly Offer[]
  /** The address of the Worker. */
  readonly endpoint: string
  /** `elements`: the Worker serves /elements.js. */
  readonly client: Client
}

export type Client = 'elements' | 'client'

/** What this version of the Worker serves to pages. */
export async function clientHas(folder: string): Promise<Client> {
  const elements = join(folder, 'src/site/elements/index.js')
  return (await readFile(elements).catch(() => null)) === null ? 'client' : 'elements'
}

/** One snippet for each of the offers that visitors see. */
export function snippetsFor({ generator, offer, endpoint, client }: SnippetOptions): Snippet[] {
  const shown = parts.filter(({ offer: own }) => offer.includes(own))
  return shown.map((part) => ({
    title: part.title,
    steps: stepsOf(generator, part, client).map(({ place, code }) => ({
      place,
      code: code.replaceAll('ENDPOINT', endpoint),
    })),
  }))
}

/** One offer, in the languages of all generators. */
interface Part {
  readonly offer: Offer
  readonly title: string
  /** The element of /elements.js, and the same with client.js. */
  readonly element: string
  readonly html: string
  /** A component for React, and one for Vue. */
  readonly component: string
  readonly react: string
  readonly vue: string
}

const PAGE = "document.querySelector('link[rel=canonical]')?.href ?? location.href"

const summary: Part = {
  offer: 'summaries',
  title: 'A summary of each page',
  element: '<edge-summary prompt="summary"></edge-summary>',
  html: `<p id="summary" hidden></p>
<script type="module">
  import { complete } from 'ENDPOINT/client.js'
  const page = ${PAGE}
  const prompt = { id: 'summary', variables: { page } }
  // A page without a summary stays as it is.
  const text = await complete(prompt, { cached: 'only' }).catch(() => '')
  const summary = document.querySelector('#summary')
  summary.textContent = text // text, never HTML
  summary.hidden = text === ''
</script>
`,
  component: 'EdgeSummary',
  react: `'use client'
import { useEffect, useState } from 'react'

export default function EdgeSummary() {
  const [text, setText] = useState('')
  useEffect(() => {
    const left = new AbortController()
    const load = async () => {
      const { complete } = await import(/* webpackIgnore: true */ 'ENDPOINT/client.js')
      const page = ${PAGE}
      const prompt = { id: 'summary', variables: { page } }
      setText(await complete(prompt, { cached: 'only', signal: left.signal }))
    }
    load().catch(() => setText('')) // a page without a summary stays as it is
    return () => left.abort()
  }, [])
  return text === '' ? null : <p>{text}</p>
}
`,
  vue: `<script setup>
import { useRoute } from 'vitepress'
import { ref, watch } from 'vue'

const text = ref('')
const route = useRoute()
const load = async () => {
  const { complete } = await import(/* @vite-ignore */ 'ENDPOINT/client.js')
  const prompt = { id: 'summary', variables: { page: location.href } }
  text.value = await complete(prompt, { cached: 'only' })
}
const show = () => {
  text.value = ''
  load().catch(() => {}) // a page without a summary stays as it is
}
if (!import.meta.env.SSR) watch(() => route.path, show, { immediate: true })
</script>

<template>
  <p v-if="text" v-text="text" />
</template>
`,
}

const ask: Part = {
  offer: 'ask',
  title: 'A chat box',
  element: '<edge-chat prompt="helper"></edge-chat>',
  html: `<form id="ask">
  <label>Your question <input name="question" required /></label>
  <button>Ask</button>
  <p aria-live="polite"></p>
</form>
<script type="module">
  import { chat } from 'ENDPOINT/client.js'
  const form = document.querySelector('#ask')
  const answer = form.querySelector('p')
  const messages = []
  form.addEventListener('submit', async (event) => {
    event.preventDefault()
    const { question } = form.elements
    messages.push({ role: 'user', content: question.value })
    question.value = answer.textContent = ''
    try {
      // Text, never HTML.
      for await (const text of chat(messages, { model: 'helper', stream: true })) answer.append(text)
      messages.push({ role: 'assistant', content: answer.textContent })
    } catch (error) {
      messages.pop()
      answer.textContent = error.message
    }
  })
</script>
`,
  component: 'EdgeChat',
  react: `'use client'
import { useRef, useState } from 'react'

export default function EdgeChat() {
  const messages = useRef([])
  const [answer, setAnswer] = useState('')
  async function ask(event) {
    event.preventDefault()
    const { question } = event.currentTarget.elements
    messages.current.push({ role: 'user', content: question.value })
    question.value = ''
    let whole = ''
    try {
      const { chat } = await import(/* webpackIgnore: true */ 'ENDPOINT/client.js')
      for await (const text of chat(messages.current, { model: 'helper', stream: true })) {
        whole += text
        setAnswer(whole)
      }
      messages.current.push({ role: 'assistant', content: whole })
    } catch (error) {
      messages.current.pop()
      setAnswer(error.message)
    }
  }
  return (
    <form onSubmit={ask}>
      <label>
        Your question <input name="question" required />
      </label>
      <button>Ask</button>
      <p aria-live="polite">{answer}</p>
    </form>
  )
}
`,
  vue: `<script setup>
import { ref } from 'vue'

const question = ref('')
const answer = ref('')
const messages = []
async function ask() {
  messages.push({ role: 'user', content: question.value })
  question.value = answer.value = ''
  try {
    const { chat } = await import(/* @vite-ignore */ 'ENDPOINT/client.js')
    for await (const text of chat(messages, { model: 'helper', stream: true })) answer.value += text
    messages.push({ role: 'assistant', content: answer.value })
  } catch (error) {
    messages.pop()
    answer.value = error.message
  }
}
</script>

<template>
  <form @submit.prevent="ask">
    <label>Your question <input v-model="question" required /></label>
    <button>Ask</button>
    <p aria-live="polite" v-text="answer" />
  </form>
</template>
`,
}

const parts = [summary, ask]

/** Where generators whose templates are HTML have the text of a page. */
const templates: Readonly<Partial<Record<GeneratorId, string>>> = {
  html: 'In each page, where it is to appear',
  astro: 'In the layout of your posts, such as src/layouts/BlogPost.astro, above <slot />',
  eleventy: 'In the layout of your posts, such as _includes/layouts/post.njk, above the content',
  hugo: 'In layouts/_default/single.html (copied from your theme), above .Content',
  jekyll: 'In _layouts/post.html (copied from your theme), above the content',
  hexo: 'In layout/post.ejs of your theme, above the content',
  wordpress: 'In a "Custom HTML" block of the template for single posts, above the content',
}

function stepsOf(generator: GeneratorId, part: Part, client: Client): Step[] {
  const place = templates[generator]
  if (place !== undefined) {
    const html = client === 'elements' ? `${SCRIPT}\n${part.element}\n` : part.html
    // Without is:inline, Astro bundles the script, and cannot resolve the address of its import.
    return [
      { place, code: generator === 'astro' ? html.replace('<script', '<script is:inline') : html },
    ]
  }
  if (generator === 'vitepress') return vitepress(part, client)
  return [component(generator, part, client), use(generator, part)]
}

const SCRIPT = '<script type="module" src="ENDPOINT/elements.js"></script>'

/** A component that loads /elements.js in the browser. */
const wrapper = ({ component, element }: Part) => `'use client'
import { useEffect } from 'react'

export default function ${component}() {
  useEffect(() => {
    import(/* webpackIgnore: true */ 'ENDPOINT/elements.js').catch(() => {})
  }, [])
  return ${element.replace(/><.*$/, ' />')}
}
`

function component(generator: GeneratorId, part: Part, client: Client): Step {
  const folder = generator === 'next' ? 'components' : 'src/components'
  const code = client === 'elements' ? wrapper(part) : part.react
  return { place: `A new file ${folder}/${part.component}.jsx`, code }
}

function use(generator: GeneratorId, { component }: Part): Step {
  if (generator === 'docusaurus') {
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
  const [place, from] =
    generator === 'next'
      ? [
          'In the page of your posts, such as app/posts/[slug]/page.jsx',
          `@/components/${component}`,
        ]
      : [
          'In the template of your posts, such as src/templates/blog-post.js',
          `../components/${component}`,
        ]
  return { place, code: `import ${component} from '${from}'\n\n<${component} />\n` }
}

function vitepress(part: Part, client: Client): Step[] {
  const { component, element } = part
  const slot = part.offer === 'summaries' ? 'doc-before' : 'doc-after'
  const [tag = '', prompt = ''] = /<([\w-]+) prompt="(\w+)"/.exec(element)?.slice(1) ?? []
  const isElement = client === 'elements'
  const shown = isElement ? `h('${tag}', { prompt: '${prompt}' })` : `h(${component})`
  const file = {
    place: `A new file .vitepress/theme/${component}.vue`,
    code: part.vue,
  }
  const head = {
    place: 'In .vitepress/config.js, in its "head"',
    code: `['script', { type: 'module', src: 'ENDPOINT/elements.js' }]\n`,
  }
  const theme = {
    place: 'In .vitepress/theme/index.js (a new file, if you have no theme of your own)',
    code: `import DefaultTheme from 'vitepress/theme'
import { h } from 'vue'
${isElement ? '' : `import ${component} from './${component}.vue'\n`}
export default {
  extends: DefaultTheme,
  Layout: () => h(DefaultTheme.Layout, null, { '${slot}': () => ${shown} }),
}
`,
  }
  return [isElement ? head : file, theme]
}
