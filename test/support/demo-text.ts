// The text that the demo model learns from, as the Worker reads it from its static files.
import { readFileSync } from 'node:fs'

export const demoText = readFileSync('src/demo/text.txt', 'utf8')
