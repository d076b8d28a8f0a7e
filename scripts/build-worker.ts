// Bundles the Worker into dist/worker.js. Wrangler runs this script ([build] in wrangler.toml) and uploads
// the result as it is: its own bundler makes it 3 KiB larger, gzipped.
import { rolldown } from 'rolldown'

const bundle = await rolldown({
  input: 'src/worker.ts',
  external: /^cloudflare:/,
  platform: 'browser',
})
await bundle.write({ file: 'dist/worker.js', minify: true, sourcemap: true })
