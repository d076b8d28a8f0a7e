// The elements of a document.
import { INNER_MODES, type Mode } from './names.ts'
import type { Attributes } from './tokens.ts'

export interface Element {
  /** In lower case. */
  readonly name: string
  readonly namespace: Namespace
  readonly attributes: Attributes
  readonly parent: Element | null
  readonly children: readonly (Element | string)[]
  /** The declarative shadow tree, which is rendered in place of the children (HTML, 4.12.3). */
  readonly shadow: Element | null
}

export type Namespace = 'html' | 'svg' | 'math'

/** The value of an attribute; null if the element does not have it. */
export function attributeOf(
  { attributes }: Pick<Element, 'attributes'>,
  name: string,
): string | null {
  for (let i = 0; i < attributes.length; i += 2) {
    if (attributes[i] === name) return attributes[i + 1] ?? ''
  }
  return null
}

/** An element whose tree is being built. */
export class Node implements Element {
  readonly name: string
  readonly namespace: Namespace
  /** Its name in the lists of names.ts. */
  readonly key: string
  attributes: Attributes
  parent: Node | null = null
  children: (Node | string)[] = []
  shadow: Node | null = null
  /** Whether its tag ends with "/>". */
  isSelfClosing = false
  isOpen = false
  /** The insertion mode for its content. */
  mode: Mode = 'body'

  constructor(name: string, attributes: Attributes = [], namespace: Namespace = 'html') {
    this.name = name
    this.namespace = namespace
    this.key = namespace === 'html' ? name : `${namespace} ${name}`
    this.attributes = attributes
  }

  /** Creates the same element without its children. */
  copy(): Node {
    return new Node(this.name, this.attributes, this.namespace)
  }

  open(outer: Mode): void {
    this.isOpen = true
    this.mode = INNER_MODES.get(this.key) ?? outer
  }
}
