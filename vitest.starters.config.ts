// Real sites of each generator, built from their packages, with the snippet of setup. Separate from
// the browser tests, because hundreds of packages are downloaded for it.
import { defineConfig } from 'vitest/config'
import browser from './vitest.browser.config.ts'

export default defineConfig({
  test: {
    ...browser.test,
    include: ['test/starters/**/*.test.ts'],
    reporters: process.env['CI']
      ? ['default', ['json', { outputFile: 'dist/starters-tests.json' }]]
      : ['default'],
    // For installing and building.
    hookTimeout: 300_000,
  },
})
