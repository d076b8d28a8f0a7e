// The starters: for each generator a small site (test/fixtures/starters), how it is built, and where
// the snippets of `npm run setup` are pasted.
import type { GeneratorId } from '../../scripts/setup/generators.ts'

/** Where a step of the snippet is pasted: beside a text of existing files. */
interface Place {
  readonly files: readonly [string, ...string[]]
  readonly above?: string
  readonly below?: string
}

export interface Starter {
  readonly generator: GeneratorId
  /** The path of a shared post in the site; absent: the site has posts of its own. */
  readonly post?: (name: string, date: string) => string
  /** The theme leaves the heading to the text of a page. */
  readonly heading?: true
  /** The command that builds the site; absent: nothing is built. */
  readonly build?: readonly [string, ...string[]]
  /** The folder of the built site. */
  readonly out: string
  /** In the order of the snippet's steps. A step without one makes a new file, which it names. */
  readonly places: readonly (Place | null)[]
  /** The path of the page with the search box and the chat. */
  readonly ask: string
  /** A file of the theme to copy, as the snippet says, by a shell command. */
  readonly copy?: string
}

const npm = ['npm', 'run', 'build'] as const

export const starters: readonly Starter[] = [
  {
    generator: 'html',
    out: '.',
    places: [
      { files: ['posts/hedge.html', 'posts/walk.html'], below: '</h1>\n' },
      { files: ['ask.html'], below: '</h1>\n' },
      { files: ['ask.html'], below: '</h1>\n' },
    ],
    ask: '/ask.html',
  },
  {
    generator: 'eleventy',
    post: (name) => `posts/${name}.md`,
    build: npm,
    out: '_site',
    places: [
      { files: ['_includes/layouts/post.njk'], above: '  {{ content' },
      { files: ['ask.md'], below: 'hills.\n' },
      { files: ['ask.md'], below: 'hills.\n' },
    ],
    ask: '/ask/',
  },
  {
    generator: 'astro',
    post: (name) => `src/content/blog/${name}.md`,
    build: npm,
    out: 'dist',
    places: [
      { files: ['src/layouts/BlogPost.astro'], above: '    <slot />' },
      { files: ['src/pages/ask.astro'], below: '</p>\n' },
      { files: ['src/pages/ask.astro'], below: '</p>\n' },
    ],
    ask: '/ask/',
  },
  {
    generator: 'vitepress',
    post: (name) => `guide/${name}.md`,
    heading: true,
    build: npm,
    out: '.vitepress/dist',
    places: [{ files: ['.vitepress/config.js'], below: 'head: [\n' }, null],
    ask: '/guide/hedge.html',
  },
  {
    generator: 'docusaurus',
    post: (name) => `docs/${name}.md`,
    build: npm,
    out: 'build',
    places: [
      null,
      null,
      null,
      { files: ['src/pages/ask.mdx'], below: 'hills.\n\n' },
      null,
      { files: ['src/pages/ask.mdx'], below: 'hills.\n\n' },
    ],
    ask: '/ask',
  },
  {
    generator: 'hugo',
    post: (name) => `content/posts/${name}.md`,
    build: ['hugo'],
    out: 'public',
    places: [
      { files: ['layouts/_default/single.html'], above: '  {{ .Content' },
      { files: ['content/ask.html'], below: '</p>\n' },
      { files: ['content/ask.html'], below: '</p>\n' },
    ],
    ask: '/ask/',
  },
  {
    generator: 'jekyll',
    post: (name, date) => `_posts/${date}-${name}.md`,
    copy: `mkdir _layouts && cp "$(ruby -e 'puts Gem::Specification.find_by_name("minima").gem_dir')/_layouts/post.html" _layouts`,
    build: ['jekyll', 'build'],
    out: '_site',
    places: [
      { files: ['_layouts/post.html'], above: '    {{ content' },
      { files: ['ask.md'], below: 'hills.\n' },
      { files: ['ask.md'], below: 'hills.\n' },
    ],
    ask: '/ask/',
  },
]
