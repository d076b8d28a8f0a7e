// The list of active formatting elements (HTML, 13.2.4.3): those that the next block reopens if a
// block has interrupted them.
import type { Node } from './node.ts'

/** The limit of elements such as an unclosed <b>, which are reopened in each following block. */
const MAX_NODES = 64

export class FormattingList {
  /** Null is a marker: what was open before it is not reopened after it. */
  readonly nodes: (Node | null)[] = []

  /** Allows three identical elements: a fourth one replaces the first. */
  add(node: Node): void {
    const same = this.#sinceMarker().filter(
      ({ name, attributes }) =>
        name === node.name &&
        attributes.length === node.attributes.length &&
        attributes.every((each, i) => each === node.attributes[i]),
    )
    if (same.length >= 3) this.remove(same[0]!)
    if (this.nodes.length >= MAX_NODES) this.nodes.shift()
    this.nodes.push(node)
  }

  remove(node: Node): void {
    const at = this.nodes.lastIndexOf(node)
    if (at !== -1) this.nodes.splice(at, 1)
  }

  mark(): void {
    this.nodes.push(null)
  }

  /** Clears the list up to the last marker. */
  clear(): void {
    while (this.nodes.length > 0 && this.nodes.pop() !== null);
  }

  /** The last element with this name after the last marker. */
  last(name: string): Node | undefined {
    return this.#sinceMarker().findLast((node) => node.name === name)
  }

  #sinceMarker(): Node[] {
    return this.nodes.slice(this.nodes.lastIndexOf(null) + 1) as Node[]
  }
}
