// A static file server for this folder on http://localhost:4000. For another port: node serve.mjs 4001
import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import { extname } from 'node:path'

const types = {
  '.html': 'text/html',
  '.css': 'text/css',
  '.js': 'text/javascript',
  '.svg': 'image/svg+xml',
  '.xml': 'application/xml',
}

const server = createServer(async (request, response) => {
  const path = pathOf(request.url ?? '')
  const type = types[extname(path)]
  const file =
    type && (await readFile(new URL(`.${path}`, import.meta.url), 'utf8').catch(() => null))
  if (!file) {
    response.writeHead(404, { 'content-type': 'text/plain' }).end('Not found')
    return
  }
  // A sitemap requires absolute addresses, so replace the port in them.
  const body = type === types['.xml'] ? file.replaceAll('http://localhost:4000', origin()) : file
  // Browsers and the Worker send it in If-None-Match to avoid downloading an unchanged file.
  const etag = `"${createHash('sha256').update(body).digest('base64url')}"`
  const headers = { 'content-type': `${type}; charset=utf-8`, 'cache-control': 'no-cache', etag }
  const unchanged = request.headers['if-none-match'] === etag
  response.writeHead(unchanged ? 304 : 200, headers).end(unchanged ? undefined : body)
})

/** URL parsing resolves "..", so the path stays in this folder. */
function pathOf(url) {
  const address = `http://localhost${url}`
  const { pathname } = new URL(URL.canParse(address) ? address : 'http://localhost/none')
  return pathname.endsWith('/') ? `${pathname}index.html` : pathname
}

const origin = () => `http://localhost:${server.address().port}`
server.listen(Number(process.argv[2] ?? 4000), 'localhost', () => console.log(origin()))
