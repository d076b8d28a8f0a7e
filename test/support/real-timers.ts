// The files of one process share its globals (vitest.config.ts), so each must leave the real timers
// behind: a spy on a fake timer would bring the fake one back when a later file restores its spies.
import { afterAll, expect, vi } from 'vitest'

const shared = globalThis as { realSetTimeout?: typeof setTimeout }
shared.realSetTimeout ??= setTimeout

afterAll(() => {
  vi.restoreAllMocks()
  expect(setTimeout, 'this file leaves a fake setTimeout behind').toBe(shared.realSetTimeout)
})
