// The tests that need more than Node: Chromium for pages, Python for its clients. Separate from
// `npm test`, which needs neither.
import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    include: ['test/{browser,python}/**/*.test.ts'],
    setupFiles: ['test/support/canary.ts'],
    globalSetup: ['test/support/bundle.ts'],
    reporters: process.env['CI']
      ? ['default', ['json', { outputFile: 'dist/browser-tests.json' }]]
      : ['default'],
    // One browser at a time: two of them with their Workers overload two cores.
    fileParallelism: false,
    // Browsers that are not ours, on a machine that is shared: in CI, a test may fail once. `.ci/run` lists
    // those that did, so that none stays hidden.
    retry: process.env['CI'] ? 1 : 0,
    // Pages are slow while other processes use the machine.
    expect: { poll: { timeout: 15_000 } },
    testTimeout: 60_000,
    hookTimeout: 90_000,
  },
})
