// The ratios as a bar chart, in SVG that needs nothing else.

export interface Bar {
  readonly what: string
  readonly ratio: number
  readonly target: number | null
}

const WIDTH = 760
const LABELS = 250
const ROW = 34
const TOP = 46

export function chart(bars: readonly Bar[]): string {
  const most = Math.max(2, ...bars.map(({ ratio, target }) => Math.max(ratio, target ?? 0))) * 1.08
  const x = (ratio: number) => LABELS + (ratio / most) * (WIDTH - LABELS - 70)
  const height = TOP + bars.length * ROW + 20
  const rows = bars.map(({ what, ratio, target }, i) => {
    const y = TOP + i * ROW
    const mark =
      target === null
        ? ''
        : `<line class="target" x1="${x(target)}" x2="${x(target)}" y1="${y - 3}" y2="${y + 21}"/>`
    return `<text x="${LABELS - 12}" y="${y + 14}" text-anchor="end">${what}</text><rect x="${LABELS}" y="${y}" width="${x(ratio) - LABELS}" height="18" rx="2"/>${mark}<text x="${x(Math.max(ratio, target ?? 0)) + 8}" y="${y + 14}">${ratio.toFixed(2)} ×</text>`
  })
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" role="img" aria-label="CPU per request, as a multiple of the smallest Worker that could answer">
<style>text{font:13px system-ui,sans-serif;fill:#333}rect{fill:#3b6ea8}.floor{stroke:#999;stroke-dasharray:3 3}.target{stroke:#c0392b;stroke-width:2}@media(prefers-color-scheme:dark){text{fill:#ddd}rect{fill:#7aa7d9}}</style>
<text x="20" y="20">CPU per request: 1 × is the smallest Worker that could do it (dashed), red the target</text>
<line class="floor" x1="${x(1)}" x2="${x(1)}" y1="${TOP - 8}" y2="${height - 12}"/>
${rows.join('\n')}
</svg>
`
}
