// The stack of open elements, from <html> to the current one (HTML, 13.2.4.2).
import { END_OPTIONAL, SCOPE } from './names.ts'
import type { Node } from './node.ts'

type Test = (node: Node) => boolean

export class OpenElements {
  readonly nodes: Node[] = []

  get current(): Node {
    return this.nodes.at(-1)!
  }

  push(node: Node): void {
    this.insert(node, this.nodes.length)
  }

  insert(node: Node, at: number): void {
    node.open(this.nodes[at - 1]?.mode ?? 'body')
    this.nodes.splice(at, 0, node)
  }

  pop(): void {
    this.popAt(this.nodes.length - 1)
  }

  /** Closes the element at this index and those open in it. */
  popAt(at: number): void {
    for (const node of this.nodes.splice(at)) node.isOpen = false
  }

  /** Closes only this element: those open in it stay open. */
  remove(node: Node): void {
    node.isOpen = false
    this.nodes.splice(this.nodes.lastIndexOf(node), 1)
  }

  /** Closes the last element that matches and those open in it; false if a boundary is before it. */
  closeLast(matches: Test, boundaries: ReadonlySet<string>): boolean {
    const at = this.#last(matches, boundaries)
    if (at !== -1) this.popAt(at)
    return at !== -1
  }

  close(key: string, scope = SCOPE): boolean {
    return this.closeLast((node) => node.key === key, scope)
  }

  has(key: string, scope = SCOPE): boolean {
    return this.#last((node) => node.key === key, scope) !== -1
  }

  isInScope(node: Node): boolean {
    return this.#last((each) => each === node, SCOPE) !== -1
  }

  /** Generates implied end tags (HTML, 13.2.6.3). */
  closeOptional(except = ''): void {
    while (END_OPTIONAL.has(this.current.key) && this.current.key !== except) this.pop()
  }

  #last(matches: Test, boundaries: ReadonlySet<string>): number {
    for (let at = this.nodes.length - 1; at >= 0; at -= 1) {
      const node = this.nodes[at]!
      if (matches(node)) return at
      if (boundaries.has(node.key)) break
    }
    return -1
  }
}
