// `npm run attack`: sends the owner's own Worker what anyone could send it, and checks what it promises.

import { type Arguments, parseArguments, USAGE } from './attack/arguments.ts'
import { readFigures } from './attack/figures.ts'
import { planOf } from './attack/plan.ts'
import { dearestToken, forecast, risk, summary } from './attack/report.ts'
import { attack } from './attack/run.ts'
import { targetOf } from './attack/target.ts'
import { checkConfig, readWranglerToml } from './config/check.ts'
import {
  draw,
  endDrawing,
  FAILED,
  INTERRUPTED,
  localSecrets,
  main,
  OK,
  print,
  wait,
} from './operator/command.ts'
import { bar } from './operator/report.ts'
import { terminalOn } from './setup/terminal.ts'

/** Shorter values are words that a response may have by chance. */
const MIN_SECRET_CHARS = 12

/** The local settings, which have the prices; null if they are missing or have faults. */
function localConfig() {
  try {
    return checkConfig(readWranglerToml('wrangler.toml').vars?.['CONFIG']).config
  } catch {
    return null
  }
}

/** @throws Error unless the user agrees */
async function confirm(cost: string): Promise<void> {
  const terminal = terminalOn({ input: process.stdin, output: process.stdout })
  if (!terminal.isInteractive) {
    throw new Error(`Cannot attack without --yes: it may spend ${cost}`)
  }
  terminal.print(`This may spend ${cost}. Then your visitors only get cached answers today.`)
  // Ctrl-C is a no.
  const answer = await terminal.ask('Go on? [y/N] ').catch(() => '')
  if (!/^y(es)?$/i.test(answer.trim())) throw new Error('Nothing was sent.')
}

process.exitCode = await main<Arguments>({
  verb: 'attack',
  usage: USAGE,
  parse: (args) => parseArguments(args, Date.now() % 1_000_000),
  async run(args, gateway, signal) {
    const url = new URL(args.url)
    // Refused if the token is not accepted: then it is not the owner's own Worker.
    const figures = await readFigures(gateway)
    const target = await targetOf(url, gateway, process.env['VISITOR_TOKEN'] || null)
    const perToken = dearestToken(localConfig(), target)
    const plan = planOf(target, args)
    print(`seed ${args.seed}`)
    if (args.dryRun) {
      print(forecast(plan, { figures, perToken }))
      return OK
    }
    if (!args.yes) await confirm(risk(figures, perToken))
    const secrets = [...Object.values(await localSecrets()), process.env['OPERATOR_TOKEN'] ?? '']
    const result = await attack(
      plan,
      {
        url,
        seconds: args.seconds,
        secrets: secrets.filter((secret) => secret.length >= MIN_SECRET_CHARS),
      },
      {
        gateway,
        signal,
        wait,
        onProgress: (done) => draw(bar({ done, all: args.requests, failed: 0, tokens: 0 })),
      },
    )
    endDrawing()
    print(summary(result, perToken))
    if (result.faults.length > 0) return FAILED
    return signal.aborted ? INTERRUPTED : OK
  },
})
