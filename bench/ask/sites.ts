// The documentation sites that are measured, and what is asked of each.
import { globSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import pageQuestions from './page-questions.json' with { type: 'json' }
import otherWords from './questions.json' with { type: 'json' }
import plainWords from './questions-held-out.json' with { type: 'json' }

export type SiteName = keyof typeof otherWords

/** "other" avoids the words of the pages. */
export const sets: Record<SetName, Record<SiteName, QuestionSet>> = {
  plain: plainWords,
  other: otherWords,
}
export type SetName = 'plain' | 'other'

export interface Site {
  readonly name: SiteName
  readonly pages: readonly Source[]
  /** By path: questions written from the page alone. */
  readonly pageQuestions: PageQuestions
}

export type PageQuestions = Readonly<Record<string, readonly string[]>>

/** The file of a page. */
export interface Source {
  readonly url: URL
  readonly type: string
  readonly bytes: Uint8Array<ArrayBuffer>
}

export interface QuestionSet {
  readonly answered: readonly Answered[]
  /** Questions that the site does not answer: first those about related subjects. */
  readonly unanswered: readonly string[]
}

/** A question, and the paths of the pages that answer it. */
export interface Answered {
  readonly question: string
  readonly pages: readonly string[]
}

interface Folder {
  readonly origin: string
  readonly files: string
  readonly without?: readonly string[]
}

const folders: Record<SiteName, Folder> = {
  actual: { origin: 'https://actualbudget.org', files: 'docs/**/*.md' },
  hono: { origin: 'https://hono.dev', files: '{docs,examples}/**/*.md' },
  sqlite: {
    origin: 'https://www.sqlite.org',
    files: '*.html',
    // Indexes of the other pages, a duplicate, and pages of more than 1 MiB, which are never read.
    without: [
      ...['backlink', 'keyword', 'pagelink', 'target'].map((of) => `doc_${of}_crossref.html`),
      ...['keyword_index.html', 'sitemap.html', 'doclist.html', 'sqlite.html', 'fileformat2.html'],
      ...['lang_select.html', 'requirements.html'],
    ],
  },
}

/** Reads the sites from a folder that get-sites.sh has filled. */
export function readSites(root: string): Site[] {
  return (Object.keys(folders) as SiteName[]).map((name) => ({
    name,
    pages: readPages(join(root, name), folders[name]),
    pageQuestions: name === 'actual' ? pageQuestions : {},
  }))
}

function readPages(root: string, { origin, files, without = [] }: Folder): Source[] {
  const names = globSync(files, { cwd: root }).filter((name) => !without.includes(name))
  if (names.length === 0) throw new Error(`no pages in ${root}: see bench/ask/README.md`)
  return names.sort().map((name) => ({
    url: new URL(pathOf(name), origin),
    type: name.endsWith('.md') ? 'text/markdown' : 'text/html',
    bytes: new Uint8Array(readFileSync(join(root, name))),
  }))
}

/** `docs/a.md` is published as `docs/a`, and `docs/index.md` as `docs/`. */
const pathOf = (name: string) => name.replace(/(?:(?<=\/)index)?\.md$/, '')
