// Part of `npm run check`: verifies that the CONFIG of wrangler.toml is valid and fits in a Worker
// variable. Also prints the warnings of GET /health, which do not fail the check.
import { checkConfig, readWranglerToml } from './config/check.ts'

try {
  const config = readWranglerToml('wrangler.toml').vars?.['CONFIG']
  const { faults, warnings, secrets, size } = checkConfig(config)
  for (const warning of warnings) console.log(`warning: ${warning}`)
  for (const { path, message } of faults) console.error(`${path}: ${message}`)
  if (faults.length === 0) {
    console.log(`CONFIG is valid: ${size}`)
    for (const name of secrets) {
      console.log(`Not checked here: the secret ${name}; GET /health reports it if missing`)
    }
  }
  process.exitCode = faults.length === 0 ? 0 : 1
} catch (error) {
  console.error(error instanceof Error ? error.message : error)
  process.exitCode = 1
}
