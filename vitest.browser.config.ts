// The browser tests: real Chromium over real workerd. Apart from `npm test`, which needs no browser.
import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    include: ['test/browser/**/*.test.ts'],
    setupFiles: ['test/support/canary.ts'],
    globalSetup: ['test/support/bundle.ts'],
    reporters: process.env['CI']
      ? ['default', ['json', { outputFile: 'dist/browser-tests.json' }]]
      : ['default'],
    // One browser at a time: two of them and their Workers are more than two cores bear.
    fileParallelism: false,
    // What a page does takes its time where other tests run beside.
    expect: { poll: { timeout: 15_000 } },
    testTimeout: 60_000,
    hookTimeout: 90_000,
  },
})
