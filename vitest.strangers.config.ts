// Programs of others judge the endpoint: `npm run strangers`. Separate from the other tests, because
// each of them is installed from its registry, into node_modules/.cache.
import { defineConfig } from 'vitest/config'
import browser from './vitest.browser.config.ts'

export default defineConfig({
  test: {
    ...browser.test,
    include: ['test/strangers/**/*.test.ts'],
    // One line for each program, with its version, what it checks, and its time.
    reporters: ['verbose', ['json', { outputFile: 'dist/strangers-tests.json' }]],
    // Most of it is for installing.
    testTimeout: 600_000,
    hookTimeout: 420_000,
  },
})
