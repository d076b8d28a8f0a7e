// Renders the charts of docs/performance.md as standalone SVG.
import type { Growth } from './growth.ts'

export interface Bar {
  readonly what: string
  readonly against: string
  /** Theirs ÷ ours. */
  readonly share: number
  readonly target: number | null
}

const WIDTH = 760
const INK =
  'text{font:12px system-ui,sans-serif;fill:#333}.grid{stroke:#ccc}.a{stroke:#3b6ea8;fill:#3b6ea8}.b{stroke:#b8591f;fill:#b8591f}.target{stroke:#c0392b;stroke-width:2}.one{stroke:#999;stroke-dasharray:3 3}text.a,text.b,rect.a{stroke:none}path{stroke-width:2}path.a,path.b{fill:none}' +
  '@media(prefers-color-scheme:dark){text{fill:#ddd}.grid{stroke:#555}.a{stroke:#7aa7d9;fill:#7aa7d9}.b{stroke:#e59a68;fill:#e59a68}}'

function svg(height: number, label: string, parts: readonly string[]): string {
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" role="img" aria-label="${label}">
<style>${INK}</style>
${parts.join('\n')}
</svg>
`
}

const LABELS = 300
const BAR = 22
const HEAD = 28

/** Bars of the cost of other Workers as multiples of ours, with a heading per scenario. */
export function bars(all: readonly Bar[]): string {
  const most = Math.max(1.5, ...all.map(({ share, target }) => Math.max(share, target ?? 0)))
  const x = (share: number) => LABELS + (share / most) * (WIDTH - LABELS - 60)
  let y = 30
  const parts: string[] = []
  for (const [i, { what, against, share, target }] of all.entries()) {
    if (all[i - 1]?.what !== what) {
      parts.push(`<text x="8" y="${y + 14}" font-weight="600">${what}</text>`)
      y += HEAD - 6
    }
    const mark =
      target === null
        ? ''
        : `<line class="target" x1="${x(target)}" x2="${x(target)}" y1="${y - 2}" y2="${y + 16}"/>`
    const end = x(Math.max(share, target ?? 0)) + 6
    parts.push(
      `<text x="${LABELS - 8}" y="${y + 11}" text-anchor="end">${against}</text><rect class="a" x="${LABELS}" y="${y}" width="${x(share) - LABELS}" height="14" rx="2"/>${mark}<text x="${end}" y="${y + 11}">${share.toFixed(2)}</text>`,
    )
    y += BAR
  }
  const head =
    'CPU of another Worker as a multiple of ours (dashed line: equal; red: minimum target)'
  const one = `<line class="one" x1="${x(1)}" x2="${x(1)}" y1="24" y2="${y}"/>`
  return svg(y + 8, head, [`<text x="8" y="16">${head}</text>`, one, ...parts])
}

const PANEL = { width: 190, height: 210, gap: 62, columns: 3, left: 52 }

/** One panel per growth, with logarithmic axes; all panels share the vertical scale. */
export function lines(panels: readonly Growth[]): string {
  const all = panels.flatMap(({ curves }) => curves.flatMap(({ us }) => us.map((of) => of.median)))
  const known = all.filter((us) => us > 0)
  const least = 10 ** Math.floor(Math.log10(Math.min(...known)))
  const most = 10 ** Math.ceil(Math.log10(Math.max(...known)))
  const rows = Math.ceil(panels.length / PANEL.columns)
  const height = rows * (PANEL.height + PANEL.gap) + 10
  const label = 'CPU time of workerd per request by input size; both axes logarithmic'
  const groups = panels.map((panel, i) => {
    const left = PANEL.left + (i % PANEL.columns) * (PANEL.width + PANEL.gap - 16)
    const top = 36 + Math.floor(i / PANEL.columns) * (PANEL.height + PANEL.gap)
    return panelOf(panel, left, top, least, most)
  })
  return svg(height, label, groups)
}

function panelOf(
  { title, sizes, curves }: Growth,
  left: number,
  top: number,
  least: number,
  most: number,
): string {
  const bottom = top + PANEL.height
  const y = logScale(least, most, bottom, top)
  const x = logScale(sizes[0] ?? 1, sizes.at(-1) ?? 10, left, left + PANEL.width)
  const parts = [`<text x="${left}" y="${top - 16}" font-weight="600">${title}</text>`]
  for (let us = least; us <= most; us *= 10) {
    parts.push(
      `<line class="grid" x1="${left}" x2="${left + PANEL.width}" y1="${y(us)}" y2="${y(us)}"/><text x="${left - 6}" y="${y(us) + 4}" text-anchor="end">${time(us)}</text>`,
    )
  }
  const middle = Math.floor((sizes.length - 1) / 2)
  for (const [i, anchor] of [
    [0, 'start'],
    [middle, 'middle'],
    [sizes.length - 1, 'end'],
  ] as const) {
    const size = sizes[i] ?? 1
    parts.push(
      `<text x="${x(size)}" y="${bottom + 16}" text-anchor="${anchor}">${size.toLocaleString('en')}</text>`,
    )
  }
  for (const [i, { name, us }] of curves.entries()) {
    const style = i === 0 ? 'a' : 'b'
    const points = us.flatMap(({ median }, j) =>
      median > 0 ? [[x(sizes[j] ?? 1), y(median)] as const] : [],
    )
    const path = points.map(([px, py]) => `${px.toFixed(1)} ${py.toFixed(1)}`).join('L')
    parts.push(
      `<path class="${style}" d="M${path}"/>`,
      ...points.map(([px, py]) => `<circle class="${style}" cx="${px}" cy="${py}" r="2.5"/>`),
      `<text class="${style}" x="${left + PANEL.width}" y="${(points.at(-1)?.[1] ?? 0) - 9}" text-anchor="end">${name}</text>`,
    )
  }
  return parts.join('')
}

function logScale(from: number, to: number, start: number, end: number): (value: number) => number {
  const span = Math.log(to) - Math.log(from)
  return (value) => start + ((Math.log(value) - Math.log(from)) / span) * (end - start)
}

const time = (us: number) =>
  us < 1000 ? `${us} µs` : us < 1e6 ? `${us / 1000} ms` : `${us / 1e6} s`
