// Serves index.html on http://localhost:4000, as any host of static files would, and nothing else.
// Another port: node serve.mjs 4001
import { readFile } from 'node:fs/promises'
import { createServer } from 'node:http'

const page = new URL('index.html', import.meta.url)
const server = createServer(async (request, response) => {
  const { pathname } = new URL(request.url ?? '/', 'http://localhost')
  if (pathname !== '/' && pathname !== '/index.html') {
    response.writeHead(404, { 'content-type': 'text/plain' }).end('Not found')
    return
  }
  response.writeHead(200, { 'content-type': 'text/html; charset=utf-8' })
  response.end(await readFile(page))
})
server.listen(Number(process.argv[2] ?? 4000), 'localhost', () => {
  console.log(`http://localhost:${server.address().port}`)
})
