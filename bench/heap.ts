// What the isolates of a workerd hold alive: their heaps after a forced collection, asked of the
// inspector. Resident memory alone does not tell what is kept from what was not yet collected.
import type { Miniflare } from 'miniflare'

/** Bytes by the name of the Worker; the subject's option `inspected` must be on. */
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

const LONGEST_MS = 30_000

/** A snapshot collects all garbage first. (`HeapProfiler.collectGarbage` never ends in workerd.) */
const COMMANDS = ['HeapProfiler.takeHeapSnapshot', 'Runtime.getHeapUsage']

function liveHeap(id: string, url: string): Promise<number> {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(url)
    const fail = (why: string) => {
      clearTimeout(timer)
      socket.close()
      reject(new Error(`the inspector of ${id} ${why}`))
    }
    const timer = setTimeout(() => fail('does not answer'), LONGEST_MS)
    socket.addEventListener('error', () => fail('broke off'))
    socket.addEventListener('open', () => {
      for (const [i, method] of COMMANDS.entries()) socket.send(JSON.stringify({ id: i, method }))
    })
    socket.addEventListener('message', ({ data }) => {
      const text = String(data)
      // The snapshot itself is megabytes, and not looked at.
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
