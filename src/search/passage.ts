// What the index holds of a page.
import type { Validators } from '../page/fetch.ts'

/** A piece of a page. */
export interface Passage {
  /** The page's address, with `#` and the nearest id above the piece, if there is one. */
  readonly url: string
  /** The page's title. */
  readonly title: string
  /** The headings above the piece, outermost first, joined by " › "; "" without any. */
  readonly heading: string
  /** At most about 900 characters, with line breaks between blocks and inside code. */
  readonly text: string
}

/** A page as it is indexed. */
export interface ReadPage {
  readonly title: string
  /** A BCP 47 tag, of `<html lang>`; null: unknown. */
  readonly language: string | null
  readonly validators: Validators
  readonly passages: readonly Passage[]
}
