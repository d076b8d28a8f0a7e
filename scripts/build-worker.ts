// Bundles the Worker into dist/worker.js. Wrangler runs this script ([build] in wrangler.toml) and uploads
// the result as it is: its own bundler makes it 3 KiB larger, gzipped.
import { mkdir, writeFile } from 'node:fs/promises'
import { rolldown } from 'rolldown'
import { minifySync } from 'rolldown/utils'

const TARGET = 'dist/worker.js'

const bundle = await rolldown({
  input: 'src/worker.ts',
  external: /^cloudflare:/,
  platform: 'browser',
})
const { output } = await bundle.generate({ file: TARGET, sourcemap: true })
const [{ code: readable, map: inputMap }] = output
// Not the option `minify`, which minifies each module by itself and shortens less.
const { code, map, errors } = minifySync(TARGET, readable, {
  module: true,
  sourcemap: true,
  inputMap: inputMap!,
})
if (errors.length > 0) throw new Error(errors.map(({ message }) => message).join('\n'))
await mkdir('dist', { recursive: true })
await writeFile(`${TARGET}.map`, JSON.stringify(map))
await writeFile(TARGET, `${code}\n//# sourceMappingURL=worker.js.map\n`)
