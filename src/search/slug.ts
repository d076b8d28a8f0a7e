// The ids that GitHub, and most site generators with it, give to the headings of Markdown.

/** What github-slugger removes, for all characters of the Unicode version that it knows. */
const REMOVED = /[^\p{Alphabetic}\p{M}\p{Nd}\p{Pc} -]/gu

/** Makes the ids of one page. A repeated id is numbered. */
export class Slugger {
  readonly #counts = new Map<string, number>()

  slug(text: string): string {
    const slug = text.toLowerCase().replace(REMOVED, '').replaceAll(' ', '-')
    let unique = slug
    let count = this.#counts.get(slug) ?? 0
    while (this.#counts.has(unique)) {
      count += 1
      unique = `${slug}-${count}`
    }
    this.#counts.set(slug, count)
    this.#counts.set(unique, this.#counts.get(unique) ?? 0)
    return unique
  }
}
