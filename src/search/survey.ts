// What an HTML document is called, and which elements links can scroll to.
import { attributeOf, type Element } from '../html/node.ts'
import { collapseSpace } from '../page/text.ts'

export class Survey {
  readonly #targets = new Map<string, Element>()
  readonly #named = new Map<string, Element>()
  readonly #metas = new Map<string, string>()
  #title = ''

  constructor(document: Element) {
    this.#read(document)
  }

  /** The id with which a link scrolls to the element; null if there is no such id. */
  idOf(element: Element): string | null {
    const id = attributeOf(element, 'id') ?? ''
    if (this.has(id, element)) return id
    const name = element.name === 'a' ? (attributeOf(element, 'name') ?? '') : ''
    return this.has(name, element) ? name : null
  }

  /** Whether a link with this fragment scrolls to the element, or to any. */
  has(id: string, element: Element | null = null): boolean {
    // The first element with the id counts, and a name only if nothing has it as id.
    const target = this.#targets.get(id) ?? this.#named.get(id)
    return target !== undefined && (element === null || target === element)
  }

  /** @param heading the text of its first heading of level 1; null without any */
  title(heading: string | null): string {
    const site = this.#metas.get('og:site_name') ?? ''
    const whole = this.#metas.get('og:title') ?? this.#title
    const title = withoutSite(whole, site)
    if (heading === null) return title
    // Some sites have their own name as a heading of every page.
    const isSiteName = heading === site || withoutSite(this.#title, heading) !== this.#title
    return isSiteName && heading !== whole ? withoutSite(title, heading) : heading
  }

  #read({ children }: Element): void {
    for (const child of children) {
      // Nothing scrolls to what is in a <template>.
      if (typeof child === 'string' || child.name === 'template') continue
      if (child.attributes.length > 0) this.#attributes(child)
      const isTitle = child.name === 'title' && child.namespace === 'html' && this.#title === ''
      if (isTitle) this.#title = collapseSpace(child.children.join(''))
      this.#read(child)
    }
  }

  #attributes(element: Element): void {
    const id = attributeOf(element, 'id') ?? ''
    if (id !== '' && !this.#targets.has(id)) this.#targets.set(id, element)
    const name = attributeOf(element, 'name') ?? ''
    if (element.name === 'a' && name !== '' && !this.#named.has(name))
      this.#named.set(name, element)
    if (element.name !== 'meta') return
    const property = attributeOf(element, 'property')
    const content = collapseSpace(attributeOf(element, 'content') ?? '')
    if (property !== null && content !== '') this.#metas.set(property, content)
  }
}

/** "Install – Site" without " – Site". */
function withoutSite(title: string, site: string): string {
  if (site === '' || !title.endsWith(site)) return title
  const rest = title.slice(0, -site.length)
  return /\S\s+[^\p{L}\p{N}\s]\s+$/u.test(rest) ? rest.replace(/\s+\S\s+$/, '') : title
}
