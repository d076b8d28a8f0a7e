// The live heap of each isolate of a workerd after a forced garbage collection, read from the inspector.
// Resident memory also includes garbage that is not collected yet.
import type { Miniflare } from 'miniflare'

/** Bytes by Worker name. Requires the option `inspected` of the subject. */
export async function liveHeaps(miniflare: Miniflare): Promise<Map<string, number>> {
  const { host } = await miniflare.getInspectorURL()
  const reply = await fetch(`http://${host}/json`)
  const targets = (await reply.json()) as readonly { id: string; webSocketDebuggerUrl: string }[]
  const heaps = new Map<string, number>()
  for (const { id, webSocketDebuggerUrl } of targets) {
    heaps.set(id.replace(/^core:user:/, ''), await liveHeap(id, webSocketDebuggerUrl))
  }
  return heaps
}

const TIMEOUT_MS = 30_000

/** Taking a snapshot collects garbage first. (`HeapProfiler.collectGarbage` never returns in workerd.) */
const COMMANDS = ['HeapProfiler.takeHeapSnapshot', 'Runtime.getHeapUsage']

function liveHeap(id: string, url: string): Promise<number> {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(url)
    const fail = (why: string) => {
      clearTimeout(timer)
      socket.close()
      reject(new Error(`the inspector of ${id} ${why}`))
    }
    const timer = setTimeout(() => fail('does not respond'), TIMEOUT_MS)
    socket.addEventListener('error', () => fail('closed the connection'))
    socket.addEventListener('open', () => {
      for (const [i, method] of COMMANDS.entries()) socket.send(JSON.stringify({ id: i, method }))
    })
    socket.addEventListener('message', ({ data }) => {
      const text = String(data)
      // Skip the snapshot itself, which is megabytes.
      if (text.includes('HeapSnapshot') && !text.startsWith('{"id"')) return
      const { id, result } = JSON.parse(text)
      if (id !== COMMANDS.length - 1) return
      clearTimeout(timer)
      socket.close()
      const { usedSize = 0, embedderHeapUsedSize = 0, backingStorageSize = 0 } = result
      resolve(usedSize + embedderHeapUsedSize + backingStorageSize)
    })
  })
}
