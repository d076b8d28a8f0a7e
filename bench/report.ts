// Prints the results, and writes them to docs/performance.md as tables.
import { readFileSync, writeFileSync } from 'node:fs'
import { cpus } from 'node:os'
import { type Bar, bars, lines } from './charts.ts'
import { exponentOf, type Growth } from './growth.ts'
import type { Figure } from './measure.ts'

export interface Row {
  readonly what: string
  readonly unit: 'µs' | 'ms' | 'MB' | 'KiB' | ''
  readonly ours: Figure
  /** The Worker that ours is compared with. */
  readonly against?: string
  readonly theirs?: Figure
  /** Theirs ÷ ours, per round. */
  readonly share?: Figure
  /** The minimum of the share, or the maximum of ours. */
  readonly target?: { readonly least: number } | { readonly most: number }
}

export interface Figures {
  readonly where: string
  readonly rows: readonly Row[]
  readonly growths: readonly Growth[]
  /** The measurements that failed, with reasons. */
  readonly failures: readonly string[]
}

/**
 * Null without a target.
 *
 * @internal exported for its tests
 */
export function isMet({ target, share, ours }: Row): boolean | null {
  if (target === undefined) return null
  return 'least' in target
    ? share !== undefined && share.median >= target.least
    : ours.median <= target.most
}

/** The machine, the versions and the date. */
export function where(): string {
  const machine = `${cpus()[0]?.model.trim()}, ${cpus().length} cores`
  const versions = `workerd ${version('workerd')}, node ${process.version}`
  return `${machine}; ${versions}; ${new Date().toISOString().slice(0, 10)}`
}

function version(name: string): string {
  return JSON.parse(readFileSync(`node_modules/${name}/package.json`, 'utf8')).version
}

/** One row as a line of text. */
export function lineOf(row: Row): string {
  const [what, against, ours, theirs, share, target, met] = cellsOf(row)
  return `${what?.padEnd(40)} ${ours} ${against === '–' ? '' : `| ${against}: ${theirs}, ${share}`} ${target === '–' ? '' : `| ${target}: ${met}`}`
}

function cellsOf(row: Row): string[] {
  const { what, unit, ours, against = '–', theirs, share, target } = row
  const met = isMet(row)
  return [
    what,
    against,
    withUnit(ours, unit),
    theirs === undefined ? '–' : withUnit(theirs, unit),
    share === undefined ? '–' : `${share.median.toFixed(2)} (${spread(share)})`,
    target === undefined
      ? '–'
      : 'least' in target
        ? `≥ ${target.least}`
        : `≤ ${target.most} ${unit}`,
    met === null ? '–' : met ? 'yes' : '**no**',
  ]
}

const spread = ({ low, high }: Figure) => `${low.toFixed(2)}–${high.toFixed(2)}`

const withUnit = ({ median }: Figure, unit: string) => `${numberOf(median)} ${unit}`.trim()

function numberOf(value: number): string {
  const digits = value === 0 ? 0 : Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value))))
  return value.toLocaleString('en', { maximumFractionDigits: Math.min(3, digits) })
}

function table(head: readonly string[], lines: readonly (readonly string[])[]): string {
  return [head, head.map(() => '---'), ...lines]
    .map((cells) => `| ${cells.join(' | ')} |`)
    .join('\n')
}

function rowsTable(rows: readonly Row[]): string {
  const head = ['what', 'beside', 'ours', 'theirs', 'theirs ÷ ours', 'target', 'met']
  return table(head, rows.map(cellsOf))
}

export function growthTable({ title, sizes, curves }: Growth): string {
  return table(
    [title, ...sizes.map((size) => size.toLocaleString('en')), 'grows as'],
    curves.map(({ name, us }) => [
      name,
      ...us.map(({ median }) => (Number.isNaN(median) ? 'failed' : time(median))),
      `size^${Math.max(0, exponentOf(sizes, us)).toFixed(1)}`,
    ]),
  )
}

const time = (us: number) =>
  us < 9950 ? `${us.toFixed(0)} µs` : `${(us / 1000).toFixed(us < 99_500 ? 1 : 0)} ms`

const PAGE = 'docs/performance.md'

/** Everything between the markers of docs/performance.md, and its charts. */
export function write({ where, rows, growths, failures }: Figures): void {
  const of = (units: readonly string[]) => rows.filter(({ unit }) => units.includes(unit))
  const missed = rows.filter((row) => isMet(row) === false).length
  const judged = rows.filter((row) => isMet(row) !== null).length
  const met = `${where}: ${judged - missed} of ${judged} targets met.`
  const lost = failures.map((failure) => `- not measured: ${failure.slice(0, 200)}`)
  rewrite('machine', [met, ...(lost.length > 0 ? ['', ...lost] : [])].join('\n'))
  const costs = rowsTable(of(['µs', 'ms', 'KiB', '']))
  rewrite('cost', `${costs}\n\n![CPU of other Workers as a multiple of ours](performance.svg)`)
  const curves = '![CPU for each request against what it depends on](growth.svg)'
  rewrite('growth', [...growths.map(growthTable), curves].join('\n\n'))
  rewrite('memory', rowsTable(of(['MB'])))
  const compared = rows.flatMap(({ what, against, share, target }): Bar[] =>
    share === undefined || against === undefined
      ? []
      : [
          {
            what,
            against,
            share: share.median,
            target: target !== undefined && 'least' in target ? target.least : null,
          },
        ],
  )
  writeFileSync('docs/performance.svg', bars(compared))
  writeFileSync('docs/growth.svg', lines(growths))
}

/** What stands between a pair of markers of the page. */
function rewrite(name: string, text: string): void {
  const between = new RegExp(`<!-- ${name} -->[\\s\\S]*<!-- /${name} -->`)
  const page = readFileSync(PAGE, 'utf8')
  writeFileSync(
    PAGE,
    page.replace(between, () => `<!-- ${name} -->\n${text}\n<!-- /${name} -->`),
  )
}
