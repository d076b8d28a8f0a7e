// The HTML parser with the character references that the Worker reads from its static files.
import { readFileSync } from 'node:fs'
import { readReferences } from '../../src/html/references.ts'
import { parseHtml } from '../../src/html/tree.ts'

export const references = readReferences(readFileSync('src/html/references.txt', 'utf8'))

export const parse = (html: string, isXml = false) => parseHtml(html, references, isXml)
