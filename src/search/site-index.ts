// The full-text index of the owner's site in SQLite: what is stored, and how passages are found and
// ranked. The object that holds it is objects/site.ts.
//
// Tables: `pages`, one row for each page; `passages`, the texts as they are shown, those of a page
// with consecutive ids; `words`, the FTS5 index of them, which stores no text; `settings`.

import type { Validators } from '../page/fetch.ts'
import { canonicalAddressOf } from '../page/rules.ts'
import { isCollection } from './collection.ts'
import type { Passage } from './passage.ts'
import { coverageOf, type Query, queryOf } from './query.ts'
import { indexedText } from './words.ts'

type Value = string | number | null

/** SQLite, as a Durable Object has it. */
export interface Sql {
  exec<Row extends Record<string, Value>>(query: string, ...values: Value[]): Iterable<Row>
  /** All of the work's writes, or none. */
  transaction<T>(work: () => T): T
}

/** A page to store, or only its questions. */
export interface PageUpdate {
  readonly name: string
  readonly url: string
  /** Null: the page has not changed since it was stored. */
  readonly read: PageVersion | null
  /** Questions that the page answers. Null: those of an unchanged page stay. */
  readonly questions: readonly string[] | null
  /** Unix seconds. */
  readonly now: number
}

export interface PageVersion {
  readonly title: string
  readonly language: string | null
  readonly validators: Validators
  /** How the page was cut. */
  readonly readAs: string
  /** The same for pages with the same passages. */
  readonly hash: string
  readonly passages: readonly Passage[]
}

/** What is known of a stored page, for a conditional request. */
export interface KnownPage extends Validators {
  readonly readAs: string
}

export interface StoredPage {
  readonly status: 'indexed' | 'unchanged'
  readonly passages: number
  readonly questions: number
  /** The version of the index. */
  readonly version: number
}

export interface FoundPassage extends Passage {
  readonly score: number
}

/** The answer to a query. */
export interface Matches {
  readonly version: number
  /** Null: no page is indexed. */
  readonly found: Found | null
}

export interface Found {
  /** Best first, at most two of a page. */
  readonly passages: readonly FoundPassage[]
  /** The share of the question's content words that occur anywhere in the index, 0 … 1. */
  readonly coverage: number
}

export interface RemovedPage {
  /** Whether it was stored. */
  readonly removed: boolean
  readonly version: number
}

export interface SiteList {
  readonly version: number
  readonly pages: readonly ListedPage[]
}

interface ListedPage {
  readonly url: string
  readonly title: string
  readonly passages: number
  readonly questions: number
  readonly indexed_at: number
}

/** Raise it when pages are stored in other words: the index is then built again. */
const FORMAT = 2
/**
 * How much a word counts: in the title, the headings, the path, the text and the questions
 * (docs/ask.md has what was measured).
 */
const WEIGHTS = [5, 4, 2, 1, 4]
const RANK = `bm25(${WEIGHTS.join(', ')})`
const PASSAGES_PER_PAGE = 2
/** How many passages are compared for each result once the length of their pages counts. */
const CANDIDATES = 4
/** Measured: from 0.05 to 0.2 makes little difference. */
const LENGTH_WEIGHT = 0.1
/**
 * Passages that no question matches. Without them, BM25 gives a word that half of the passages have
 * no weight at all, which is every word that a small site is about.
 */
const FILLERS = 50
/** About as long as a passage. Words have no characters for private use. */
const FILLER_WORD = '\ue000'
const FILLER = Array.from({ length: 60 }, () => FILLER_WORD).join(' ')
/**
 * How many rows are ranked for a query: the sum of those that each of its words has. It bounds the
 * time of the one object. Beyond it, the most frequent words are left out: they have least weight.
 */
const MAX_ROWS = 20_000
/** The same for all questions of a page, which are ranked when it is put: about half a second. */
const MAX_QUESTION_ROWS = 200_000
/** How much of a passage's headings is indexed, from the end: each passage has them again. */
const MAX_HEADING_CHARS = 300
/**
 * How rare a word is, ln((N - n + 0.5) / (n + 0.5)) for n of N rows: BM25 without its other factors,
 * which are 2.2 for a word of infinite weight. FTS5 counts by itself, so that one row is billed.
 * https://www.sqlite.org/fts5.html#the_bm25_function
 */
const RARITY = `bm25(words, ${WEIGHTS.map(() => '1e9')}) / -2.2`

// Marks belong to words: the vowels of Indic scripts are marks.
const TOKENIZER = "porter unicode61 remove_diacritics 2 categories 'L* N* M* Co'"
const SCHEMA = [
  `CREATE TABLE IF NOT EXISTS pages (name TEXT PRIMARY KEY, url TEXT, title TEXT, language TEXT, etag TEXT,
    last_modified TEXT, read_as TEXT, hash TEXT, first_id INTEGER, passages INTEGER,
    questions TEXT, indexed_at INTEGER) WITHOUT ROWID`,
  `CREATE TABLE IF NOT EXISTS passages (id INTEGER PRIMARY KEY, url TEXT, title TEXT, heading TEXT,
    text TEXT)`,
]
const WORDS = `CREATE VIRTUAL TABLE words USING fts5(title, heading, path, text, questions,
  content = '', contentless_delete = 1, tokenize = "${TOKENIZER}")`

interface IdsRow extends Record<string, Value> {
  readonly first_id: number
  readonly passages: number
}

interface PageRow extends IdsRow {
  readonly etag: string | null
  readonly last_modified: string | null
  readonly read_as: string
  readonly hash: string
  readonly questions: string
}

interface PassageRow extends Passage, Record<string, Value> {
  readonly id: number
}

export class SiteIndex {
  readonly #sql: Sql
  #version: number

  constructor(sql: Sql) {
    this.#sql = sql
    this.#run('CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value) WITHOUT ROWID')
    this.#version = Number(this.#setting('version') ?? 0)
    if (this.#setting('format') !== FORMAT) sql.transaction(() => this.#rebuild())
  }

  /** It changes whenever the index does. */
  get version(): number {
    return this.#version
  }

  /** @param origins whose pages may be found: the index may have others, from before a change */
  find(query: Query, limit: number, origins: readonly string[]): Matches {
    const version = this.#version
    if (this.#first('SELECT 1 FROM pages LIMIT 1') === null) return { version, found: null }
    const rarities = query.terms.map((term) => this.#rarity(term))
    const occurring = rarities.map((rarity) => rarity > 0)
    const terms = this.#rarest(query.terms, rarities)
    const coverage = coverageOf(query, occurring)
    return { version, found: { passages: this.#best(terms, limit, origins), coverage } }
  }

  page(name: string): KnownPage | null {
    const row = this.#page(name)
    if (row === null) return null
    const { etag, last_modified, read_as: readAs } = row
    return { etag, last_modified, readAs }
  }

  /** Replaces a page as a whole. @returns null if it is said to be unchanged and is not stored */
  put(update: PageUpdate): StoredPage | null {
    const old = this.#page(update.name)
    if (old === null && update.read === null) return null
    return this.#sql.transaction(() => this.#put(update, old))
  }

  remove(name: string): RemovedPage {
    const row = this.#page(name)
    if (row === null) return { removed: false, version: this.#version }
    return this.#sql.transaction(() => {
      this.#removePassages(row)
      this.#run('DELETE FROM pages WHERE name = ?', name)
      return { removed: true, version: this.#changed() }
    })
  }

  list(): SiteList {
    const version = this.#version
    const query = `SELECT url, title, passages, json_array_length(questions) AS questions, indexed_at
      FROM pages ORDER BY name`
    return { version, pages: [...this.#sql.exec<ListedPage & Record<string, Value>>(query)] }
  }

  #put({ name, url, read, questions, now }: PageUpdate, old: PageRow | null): StoredPage {
    const isSame = old !== null && (read === null || read.hash === old.hash)
    const kept = isSame ? (JSON.parse(old.questions) as string[]) : []
    const wanted = questions ?? kept
    const areSame = JSON.stringify(wanted) === JSON.stringify(kept)
    const counted = { questions: wanted.length }
    if (isSame && areSame) {
      if (read !== null) this.#confirm(name, read.validators, old)
      return { status: 'unchanged', passages: old.passages, ...counted, version: this.#version }
    }
    const passages = read?.passages ?? this.#passagesOf(old as PageRow)
    if (old !== null) this.#removePassages(old)
    const firstId = this.#add(passages, wanted)
    if (read === null) {
      this.#run(
        'UPDATE pages SET first_id = ?, questions = ?, indexed_at = ? WHERE name = ?',
        firstId,
        JSON.stringify(wanted),
        now,
        name,
      )
    } else {
      const { title, language, validators, readAs, hash } = read
      this.#run(
        'INSERT OR REPLACE INTO pages VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)',
        ...[name, url, title, language, validators.etag, validators.last_modified, readAs, hash],
        ...[firstId, passages.length, JSON.stringify(wanted), now],
      )
    }
    const version = this.#changed()
    return { status: 'indexed', passages: passages.length, ...counted, version }
  }

  /** The best passages for the terms, of which each occurs. */
  #best(terms: readonly string[], limit: number, origins: readonly string[]): FoundPassage[] {
    const candidates: FoundPassage[] = []
    const perPage = new Map<string, { found: number; readonly row: PageRow | null }>()
    const done = new Set(this.#idsOutside(origins))
    for (const { id, rank } of this.#ranked(terms)) {
      if (done.has(id)) continue
      const { url, title, heading, text } = this.#passage(id)
      const address = new URL(url)
      if (!origins.includes(address.origin)) continue
      const name = canonicalAddressOf(address)
      const page = perPage.get(name) ?? { found: 0, row: this.#page(name) }
      if (page.found === PASSAGES_PER_PAGE) continue
      page.found += 1
      perPage.set(name, page)
      // The passages of a collection are those of many pages.
      const isDone = page.found === PASSAGES_PER_PAGE && !isCollection(address)
      if (isDone && page.row !== null) for (const other of idsOf(page.row)) done.add(other)
      // FTS5 ranks from the least.
      const score = Number((-rank / chanceOf(page.row)).toPrecision(4))
      candidates.push({ url, title, heading, text, score })
      if (candidates.length === CANDIDATES * limit) break
    }
    return candidates.sort((a, b) => b.score - a.score).slice(0, limit)
  }

  /** Rows are only read as far as the caller goes. */
  #ranked(terms: readonly string[]): Iterable<{ id: number; rank: number }> {
    if (terms.length === 0) return []
    const query = `SELECT rowid AS id, rank FROM words WHERE words MATCH ? AND rank MATCH ?
      ORDER BY rank LIMIT ${MAX_ROWS}`
    return this.#sql.exec<{ id: number; rank: number }>(query, terms.join(' OR '), RANK)
  }

  /** The passages of all other origins' pages. Of the others, no row is read. */
  #idsOutside(origins: readonly string[]): number[] {
    const query = 'SELECT first_id, passages FROM pages WHERE name >= ? AND name < ?'
    let from = ''
    // Names begin with an origin and "/", after which comes "0".
    return [...origins.map((origin) => `${origin}/`).sort(), '\uffff'].flatMap((to) => {
      const rows = [...this.#sql.exec<IdsRow>(query, from, to)]
      from = `${to.slice(0, -1)}0`
      return rows.flatMap(idsOf)
    })
  }

  /** The terms that occur, from the rarest up to so many rows in all, and at least one. */
  #rarest(terms: readonly string[], rarities: readonly number[], maxRows = MAX_ROWS): string[] {
    // The fillers are so many rows, which gives N. A word of more than half of all counts as half.
    const all = (FILLERS + 0.5) * (1 + Math.exp(this.#rarity(`"${FILLER_WORD}"`)))
    let rows = 0
    return terms
      .map((term, i) => ({ term, rarity: rarities[i] ?? 0 }))
      .filter(({ rarity }) => rarity > 0)
      .toSorted((a, b) => b.rarity - a.rarity)
      .filter(({ rarity }, i) => {
        rows += all / (1 + Math.exp(rarity))
        return i === 0 || rows <= maxRows
      })
      .map(({ term }) => term)
  }

  /** 0: the term does not occur. Of one that occurs, FTS5 makes it positive. */
  #rarity(term: string): number {
    const query = `SELECT ${RARITY} AS rarity FROM words WHERE words MATCH ? LIMIT 1`
    return this.#first<{ rarity: number }>(query, term)?.rarity ?? 0
  }

  /** Stores passages. @returns the id of the first one */
  #add(passages: readonly Passage[], questions: readonly string[]): number {
    const last = this.#first<{ id: number }>('SELECT MAX(id) AS id FROM passages')
    const firstId = (last?.id ?? 0) + 1
    const rows = passages.map((passage, i) => ({ ...passage, id: firstId + i }))
    for (const { id, url, title, heading, text } of rows) {
      this.#run('INSERT INTO passages VALUES (?, ?, ?, ?, ?)', id, url, title, heading, text)
    }
    this.#index(rows, questions)
    return firstId
  }

  /** Indexes the passages of a page, and each question with the passage that it fits best. */
  #index(passages: readonly PassageRow[], questions: readonly string[]): void {
    for (const passage of passages) this.#addWords(passage, '')
    const range = [passages[0]?.id ?? 0, passages.at(-1)?.id ?? 0]
    const maxRows = MAX_QUESTION_ROWS / questions.length
    const rarities: Record<string, number> = {}
    const best = Map.groupBy(questions, (question) => {
      const { terms } = queryOf(question)
      for (const term of terms) rarities[term] ??= this.#rarity(term)
      const match = this.#rarest(
        terms,
        terms.map((term) => rarities[term] ?? 0),
        maxRows,
      ).join(' OR ')
      const query = `SELECT rowid AS id FROM words WHERE words MATCH ? AND rowid BETWEEN ? AND ?
        AND rank MATCH ? ORDER BY rank LIMIT 1`
      const row = match === '' ? null : this.#first<{ id: number }>(query, match, ...range, RANK)
      return row?.id ?? passages[0]?.id
    })
    for (const passage of passages) {
      const fitting = best.get(passage.id)
      if (fitting === undefined) continue
      this.#run('DELETE FROM words WHERE rowid = ?', passage.id)
      this.#addWords(passage, fitting.join('\n'))
    }
  }

  #addWords({ id, url, title, heading, text }: PassageRow, questions: string): void {
    const headings = heading.slice(-MAX_HEADING_CHARS)
    const columns = [title, headings, pathOf(url), text, questions].map(indexedText)
    const query = `INSERT INTO words (rowid, title, heading, path, text, questions)
      VALUES (?, ?, ?, ?, ?, ?)`
    this.#run(query, id, ...columns)
  }

  #removePassages({ first_id: first, passages }: PageRow): void {
    const end = first + passages
    // One by one: for a range, FTS5 reads its whole table.
    for (let id = first; id < end; id++) this.#run('DELETE FROM words WHERE rowid = ?', id)
    this.#run('DELETE FROM passages WHERE id >= ? AND id < ?', first, end)
  }

  /** The page is unchanged, and may have other validators, with which it is asked for next. */
  #confirm(name: string, { etag, last_modified }: Validators, old: PageRow): void {
    if (etag === old.etag && last_modified === old.last_modified) return
    const query = 'UPDATE pages SET etag = ?, last_modified = ? WHERE name = ?'
    this.#run(query, etag, last_modified, name)
  }

  #changed(): number {
    const version = this.#version + 1
    this.#set('version', version)
    this.#version = version
    return version
  }

  /** Creates the tables, or indexes the stored passages in the words of this version. */
  #rebuild(): void {
    for (const statement of SCHEMA) this.#run(statement)
    this.#run('DROP TABLE IF EXISTS words')
    this.#run(WORDS)
    for (let id = -FILLERS; id < 0; id++) {
      this.#run('INSERT INTO words (rowid, text) VALUES (?, ?)', id, FILLER)
    }
    for (const page of [...this.#sql.exec<PageRow>('SELECT * FROM pages')]) {
      this.#index(this.#passagesOf(page), JSON.parse(page.questions) as string[])
    }
    this.#set('format', FORMAT)
    this.#changed()
  }

  #page(name: string): PageRow | null {
    return this.#first<PageRow>('SELECT * FROM pages WHERE name = ?', name)
  }

  #passagesOf({ first_id: first, passages }: PageRow): PassageRow[] {
    const query = 'SELECT * FROM passages WHERE id BETWEEN ? AND ? ORDER BY id'
    return [...this.#sql.exec<PassageRow>(query, first, first + passages - 1)]
  }

  #passage(id: number): PassageRow {
    return this.#first<PassageRow>('SELECT * FROM passages WHERE id = ?', id) as PassageRow
  }

  #setting(name: string): Value {
    const query = 'SELECT value FROM settings WHERE name = ?'
    return this.#first<{ value: Value }>(query, name)?.value ?? null
  }

  #set(name: string, value: Value): void {
    this.#run('INSERT OR REPLACE INTO settings VALUES (?, ?)', name, value)
  }

  #first<Row extends Record<string, Value>>(query: string, ...values: Value[]): Row | null {
    for (const row of this.#sql.exec<Row>(query, ...values)) return row
    return null
  }

  #run(query: string, ...values: Value[]): void {
    this.#sql.exec(query, ...values)
  }
}

/** The ids of a page's passages. */
const idsOf = ({ first_id: first, passages }: IdsRow): number[] =>
  Array.from({ length: passages }, (_, i) => first + i)

/** By what a score is divided: of many passages of a long page, one matches by chance. */
function chanceOf(page: PageRow | null): number {
  return 1 + LENGTH_WEIGHT * Math.log1p(page?.passages ?? 1)
}

/** The words of an address: its decoded path. */
function pathOf(url: string): string {
  const { pathname } = new URL(url)
  try {
    return decodeURIComponent(pathname)
  } catch {
    return pathname
  }
}
