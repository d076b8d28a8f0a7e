// The process that other tests rely on to start and end servers.
import { expect, test } from 'vitest'
import { OtherServer, type ServerCommand } from './server.ts'

const python = (readyAt: string, ...args: string[]): ServerCommand => ({
  command: 'python3',
  args: (port) => [...args, '-m', 'http.server', '--bind', '127.0.0.1', String(port)],
  readyAt,
})

test('a server is ready once it answers, and gone once it is killed', async () => {
  const server = await OtherServer.start(python('/'))
  try {
    expect((await fetch(server.origin)).status).toBe(200)
  } finally {
    await server.kill()
  }
  await expect(fetch(server.origin)).rejects.toThrow('fetch failed')
})

test('a server that ends instead is an error with what it printed', async () => {
  await expect(OtherServer.start(python('/', '--no-such-option'))).rejects.toThrow('option')
  await expect(OtherServer.start({ ...python('/'), command: './missing' })).rejects.toThrow(
    'ENOENT',
  )
})

test('a server that is not ready in time is an error, and is killed', async () => {
  const server = { ...python('/missing'), startMs: 500 }
  await expect(OtherServer.start(server)).rejects.toThrow('File not found')
})
