import { availableParallelism } from 'node:os'
import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    // These need Chromium, Python or more: npm run test:browser, npm run test:starters, npm run strangers.
    exclude: ['test/{browser,python,starters}/**', 'test/strangers/**'],
    setupFiles: ['test/support/canary.ts', 'test/support/real-timers.ts'],
    // Builds the Worker as for a deploy; the tests in test/worker/ run that bundle in workerd.
    globalSetup: ['test/support/bundle.ts'],
    // In CI, also write the results to a file for counting.
    reporters: process.env['CI']
      ? ['default', ['json', { outputFile: 'dist/tests.json' }]]
      : ['default'],
    // The files of one process share its modules: loading Miniflare, the schemas and the sources
    // again for each file would take longer than most files run.
    isolate: false,
    // By default one core is left free. But many tests wait for timeouts in workerd, so that even
    // one more process than there are cores is not too many.
    maxWorkers: availableParallelism() + 1,
    // Time limits of workerd on a machine that is shared: in CI, a test may fail once. `.ci/run` lists
    // those that did, so that none stays hidden.
    retry: process.env['CI'] ? 1 : 0,
    testTimeout: 60_000,
    hookTimeout: 60_000,
    // The default of one second is too short on a busy machine.
    expect: { poll: { timeout: 15_000 } },
  },
})
