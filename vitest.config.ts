import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    // Those need Chromium: npm run test:browser.
    exclude: ['test/browser/**'],
    setupFiles: ['test/support/canary.ts'],
    // Builds the Worker once, as it would be deployed; test/worker/ runs that bundle in workerd.
    globalSetup: ['test/support/bundle.ts'],
    // CI counts the tests from a file; people read the screen.
    reporters: process.env['CI']
      ? ['default', ['json', { outputFile: 'dist/tests.json' }]]
      : ['default'],
    testTimeout: 60_000,
    hookTimeout: 60_000,
    // On a busy machine a second is soon over; what holds is seen at once anyway.
    expect: { poll: { timeout: 15_000 } },
  },
})
