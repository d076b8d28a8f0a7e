// Builds the static files in dist/site: the pages unchanged, uPlot with its licence, the training text of
// the demo model, the names of character references, the hints for the log, the types of client.js, the
// template of /openapi.json, and the response headers. Only client.js, elements.js and edge-ask.js are minified,
// because visitors of other sites load them; the last two are bundled from src/site/elements/. Wrangler runs this script ([build] in wrangler.toml).
import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { dirname, extname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build, type Plugin, transform } from 'esbuild'
import { minifySync } from 'rolldown/utils'
import { placeholders, TEMPLATE } from '../src/routes/openapi.ts'
import { HINTS } from '../src/upstream/explain.ts'
import { hints } from '../src/upstream/hints.ts'
import { openApiDocument } from './openapi/document.ts'

const SOURCE = 'src/site'
const TARGET = 'dist/site'

const servedExtensions = new Set(['.html', '.js', '.css', '.svg'])

/** Forbids inline scripts and styles, and other hosts except Turnstile's, which owners may enable. */
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

/** The headers of a file that pages of any origin load. */
const shared = (path: string, type: string) => `${path}
  ! Cache-Control
  Cache-Control: public, max-age=3600
  Content-Type: ${type}; charset=utf-8
  Access-Control-Allow-Origin: *
  Cross-Origin-Resource-Policy: cross-origin
`

/**
 * The headers of the static files. "!" removes a header that "/*" has set.
 * https://developers.cloudflare.com/workers/static-assets/headers/
 */
const headers = `/*
  Content-Security-Policy: ${policy}
  X-Content-Type-Options: nosniff
  Referrer-Policy: no-referrer
  Cache-Control: no-cache
  Vary: Origin

${shared('/client.js', 'text/javascript')}
${shared('/client.d.ts', 'text/plain')}
${shared('/elements.js', 'text/javascript')}
${shared('/edge-ask.js', 'text/javascript')}`

const uplot = dirname(dirname(fileURLToPath(import.meta.resolve('uplot'))))
const read = async (...path: string[]) => await readFile(join(...path), 'utf8')
const licence = `/*!\n${(await read(uplot, 'LICENSE')).trim()}\n*/\n`
const files = new Map([
  // The opening of "Alice's Adventures in Wonderland" by Lewis Carroll (1865), which is in the public
  // domain. One paragraph per line, with straight quotes, without chapter headings, and with verses
  // appended to the previous paragraph. Read by the Worker (src/objects/platform.ts), not by pages.
  ['demo-text.txt', await read('src/demo/text.txt')],
  // The character references of HTML, read by the Worker with the first page of an isolate.
  ['references.txt', await read('src/html/references.txt')],
  ['_headers', headers],
  // Read by the Worker when an upstream call fails.
  [HINTS, JSON.stringify(hints)],
  ['client.d.ts', await read(SOURCE, 'client.d.ts')],
  [TEMPLATE, JSON.stringify(openApiDocument(placeholders))],
  ['uplot.js', licence + (await read(uplot, 'dist', 'uPlot.esm.js'))],
  ['uplot.css', licence + (await read(uplot, 'dist', 'uPlot.min.css'))],
])
for (const name of await readdir(SOURCE)) {
  if (servedExtensions.has(extname(name))) files.set(name, await read(SOURCE, name))
}
const target = 'es2022'

/** A module with short names, below a comment. 2 % smaller, gzipped, than what esbuild makes of it. */
function small(comment: string, code: string): string {
  const { code: text, errors } = minifySync('module.js', code, {
    module: true,
    compress: { target },
  })
  if (errors.length > 0) throw new Error(errors.map(({ message }) => message).join('\n'))
  return `/* edge-completions. ${comment} */\n${text}\n`
}

const client = await read(SOURCE, 'client.js')
files.set('client.js', small('Types: client.d.ts. Readable source: src/site/client.js.', client))

/** The styles of the elements are a string in their module. */
const styles: Plugin = {
  name: 'styles',
  setup({ onLoad }) {
    onLoad({ filter: /\.css$/ }, async ({ path }) => {
      const { code } = await transform(await read(path), { loader: 'css', minify: true })
      return { contents: code.trim(), loader: 'text' }
    })
  },
}
/** Bundles a module of the elements. */
async function bundled(entry: string): Promise<string> {
  const { outputFiles } = await build({
    target,
    entryPoints: [join(SOURCE, 'elements', entry)],
    bundle: true,
    format: 'esm',
    charset: 'utf8',
    // The page's own import of client.js is the same module. `/elements.js` has no folder to leave.
    external: ['../client.js', '../../client.js', './edge-ask.js'],
    plugins: [styles],
    write: false,
  })
  return small('Readable source: src/site/elements/.', outputFiles[0]?.text ?? '')
}
files.set('elements.js', await bundled('index.js'))
// Loaded by elements.js where it is needed.
files.set('edge-ask.js', await bundled('ask/ask.js'))

// Write only changed files, so that a running `wrangler dev` does not reload without need.
await mkdir(TARGET, { recursive: true })
for (const [name, content] of files) {
  const old = await read(TARGET, name).catch(() => null)
  if (old !== content) await writeFile(join(TARGET, name), content)
}
for (const name of await readdir(TARGET)) {
  if (!files.has(name)) await rm(join(TARGET, name), { recursive: true })
}
