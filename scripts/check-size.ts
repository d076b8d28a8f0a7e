// Part of `npm run check`: how large the Worker may get. An isolate has to load and compile it before
// its first answer. Reads the bundle that `wrangler deploy --dry-run --outdir dist` has just made;
// another path may be given.
import { readFileSync } from 'node:fs'
import { gzipSync } from 'node:zlib'

/**
 * The gate. It goes down with the bundle, to 62, and never up without a reason; the last one was 11 KiB
 * to read pages as browsers do (docs/decisions/page-text.md).
 */
const LIMIT_KIB = 87

const path = process.argv[2] ?? 'dist/worker.js'
const kib = gzipSync(readFileSync(path), { level: 9 }).length / 1024
const said = `${path} has ${kib.toFixed(1)} KiB gzipped; the limit is ${LIMIT_KIB}`
if (kib > LIMIT_KIB) {
  console.error(
    `Cannot deploy the bundle: ${said}; take something out, or say in scripts/check-size.ts why not`,
  )
  process.exitCode = 1
} else {
  console.log(said)
}
