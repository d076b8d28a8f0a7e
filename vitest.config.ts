import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    // These need Chromium; run them with npm run test:browser.
    exclude: ['test/browser/**'],
    setupFiles: ['test/support/canary.ts'],
    // Builds the Worker as for a deploy; the tests in test/worker/ run that bundle in workerd.
    globalSetup: ['test/support/bundle.ts'],
    // In CI, also write the results to a file for counting.
    reporters: process.env['CI']
      ? ['default', ['json', { outputFile: 'dist/tests.json' }]]
      : ['default'],
    testTimeout: 60_000,
    hookTimeout: 60_000,
    // The default of one second is too short on a busy machine.
    expect: { poll: { timeout: 15_000 } },
  },
})
