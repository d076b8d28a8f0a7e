// Bundles the Worker into dist/. Wrangler runs this script ([build] in wrangler.toml) and uploads the
// modules as they are: its own bundler makes them 3 KiB larger, gzipped. worker.js has the exports that
// the platform knows, gateway.js has the code, and pages.js what only the first page that is read loads.
import { mkdir, writeFile } from 'node:fs/promises'
import { rolldown } from 'rolldown'
import { minifySync } from 'rolldown/utils'

const bundle = await rolldown({
  input: 'src/worker.ts',
  external: /^cloudflare:/,
  platform: 'browser',
})
const { output } = await bundle.generate({
  dir: 'dist',
  sourcemap: true,
  chunkFileNames: '[name].js',
  codeSplitting: {
    groups: [{ name: 'gateway', tags: ['$initial'], priority: 1 }, { name: 'pages' }],
  },
})
const names = output.flatMap((file) => (file.type === 'chunk' ? [file.fileName] : []))
const expected = ['gateway.js', 'pages.js', 'worker.js']
// Wrangler uploads no other (`rules` in wrangler.toml): a Worker that imports one does not start.
if (names.toSorted().join() !== expected.join()) {
  throw new Error(
    `Cannot build the Worker: expected the modules ${expected.join(', ')}, got ${names.join(', ')}. Does code outside of pages.js import from it other than by import()?`,
  )
}
await mkdir('dist', { recursive: true })
for (const chunk of output) {
  if (chunk.type !== 'chunk') continue
  // Not the option `minify`, which minifies each module by itself and shortens less.
  const { code, map, errors } = minifySync(chunk.fileName, chunk.code, {
    module: true,
    sourcemap: true,
    inputMap: chunk.map!,
  })
  if (errors.length > 0) throw new Error(errors.map(({ message }) => message).join('\n'))
  await writeFile(`dist/${chunk.fileName}.map`, JSON.stringify(map))
  await writeFile(`dist/${chunk.fileName}`, `${code}\n//# sourceMappingURL=${chunk.fileName}.map\n`)
}
