// Puts the static files together in dist/site: our pages as they are, uPlot with its licence, the text
// that the demo model learns from, the document for /openapi.json, and the headers of all these. Bundles nothing; only client.js, which other people's pages wait for, is
// minified. Wrangler runs it ([build] in wrangler.toml).
import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { dirname, extname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { transform } from 'esbuild'
import { openApiDocument } from '../src/routes/openapi.ts'
import { placeholders, TEMPLATE } from '../src/routes/openapi-file.ts'

const SOURCE = 'src/site'
const TARGET = 'dist/site'

/** What is served; type declarations and the like are not. */
const served = new Set(['.html', '.js', '.css', '.svg'])

/** No inline script or style, no other host; Turnstile's, for owners who have switched it on. */
const policy = [
  "default-src 'none'",
  "script-src 'self' https://challenges.cloudflare.com",
  "connect-src 'self'",
  "style-src 'self'",
  "img-src 'self' data:",
  'frame-src https://challenges.cloudflare.com',
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ')

/** Read by Cloudflare and by wrangler: headers of static files. "!" takes back what "/*" has set. */
const headers = `/*
  Content-Security-Policy: ${policy}
  X-Content-Type-Options: nosniff
  Referrer-Policy: no-referrer
  Cache-Control: no-cache
  Vary: Origin

/client.js
  ! Cache-Control
  Cache-Control: public, max-age=3600
  Content-Type: text/javascript; charset=utf-8
  Access-Control-Allow-Origin: *
  Cross-Origin-Resource-Policy: cross-origin
`

const uplot = dirname(dirname(fileURLToPath(import.meta.resolve('uplot'))))
const read = async (...path: string[]) => await readFile(join(...path), 'utf8')
const licence = `/*!\n${(await read(uplot, 'LICENSE')).trim()}\n*/\n`
const files = new Map([
  // The opening of "Alice's Adventures in Wonderland" by Lewis Carroll (1865), which is in the public
  // domain. One paragraph a line, quotes made plain, chapter headings left out, the verses run into
  // the paragraph before them. Not for pages: the Worker reads it (src/objects/environment.ts).
  ['demo-text.txt', await read('src/upstream/demo-text.txt')],
  ['_headers', headers],
  [TEMPLATE, JSON.stringify(openApiDocument(placeholders))],
  ['uplot.js', licence + (await read(uplot, 'dist', 'uPlot.esm.js'))],
  ['uplot.css', licence + (await read(uplot, 'dist', 'uPlot.min.css'))],
])
for (const name of await readdir(SOURCE)) {
  if (served.has(extname(name))) files.set(name, await read(SOURCE, name))
}
const banner = '/* edge-completions; readable, with its types, as src/site/client.js */'
const { code } = await transform(await read(SOURCE, 'client.js'), {
  minify: true,
  target: 'es2022',
  banner,
})
files.set('client.js', code)

// Only what differs is written: a Worker that is being served from here keeps its files.
await mkdir(TARGET, { recursive: true })
for (const [name, content] of files) {
  const old = await read(TARGET, name).catch(() => null)
  if (old !== content) await writeFile(join(TARGET, name), content)
}
for (const name of await readdir(TARGET)) {
  if (!files.has(name)) await rm(join(TARGET, name), { recursive: true })
}
