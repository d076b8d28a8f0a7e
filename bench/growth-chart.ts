// The growth of costs as three log-log panels, in SVG that needs nothing else.
import type { Growth } from './growth.ts'

const WIDTH = 760
const PANEL = 196
const HEIGHT = 250
const TOP = 34
const BOTTOM = HEIGHT - 34
const GAP = 56

export function growthChart(panels: readonly Growth[]): string {
  const all = panels.flatMap(({ curves }) => curves.flatMap(({ us }) => us))
  const least = 10 ** Math.floor(Math.log10(Math.min(...all)))
  const most = 10 ** Math.ceil(Math.log10(Math.max(...all)))
  const y = scale(least, most, BOTTOM, TOP)
  const lines: string[] = []
  for (let us = least; us <= most; us *= 10) {
    lines.push(`<text x="44" y="${y(us) + 4}" text-anchor="end">${time(us)}</text>`)
  }
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label="CPU per request against the size of the prompt, of the answer, and the number of readers, both axes logarithmic">
<style>text{font:12px system-ui,sans-serif;fill:#333}.grid{stroke:#ccc}path{fill:none;stroke-width:2}.a{stroke:#3b6ea8;fill:#3b6ea8}.b{stroke:#b8591f;fill:#b8591f}text.a,text.b{stroke:none}path.a,path.b{fill:none}@media(prefers-color-scheme:dark){text{fill:#ddd}.grid{stroke:#555}.a{stroke:#7aa7d9;fill:#7aa7d9}.b{stroke:#e59a68;fill:#e59a68}}</style>
${lines.join('')}
${panels.map((panel, i) => panelOf(panel, 52 + i * (PANEL + GAP - 16), y, least, most)).join('\n')}
</svg>
`
}

function panelOf(
  { title, sizes, curves }: Growth,
  left: number,
  y: (us: number) => number,
  least: number,
  most: number,
): string {
  const x = scale(sizes[0] ?? 1, sizes.at(-1) ?? 10, left, left + PANEL)
  const grid: string[] = []
  for (let us = least; us <= most; us *= 10) {
    grid.push(`<line class="grid" x1="${left}" x2="${left + PANEL}" y1="${y(us)}" y2="${y(us)}"/>`)
  }
  const ticks = [
    sizes[0] ?? 1,
    sizes[Math.floor((sizes.length - 1) / 2)] ?? 1,
    sizes.at(-1) ?? 1,
  ].map(
    (size, i) =>
      `<text x="${x(size)}" y="${BOTTOM + 16}" text-anchor="${['start', 'middle', 'end'][i]}">${size.toLocaleString('en')}</text>`,
  )
  const drawn = curves.map(({ name, us }, i) => {
    const style = i === 0 ? 'a' : 'b'
    const points = us.map((value, j) => `${x(sizes[j] ?? 1).toFixed(1)} ${y(value).toFixed(1)}`)
    const dots = points.map((point) => {
      const [cx, cy] = point.split(' ')
      return `<circle class="${style}" cx="${cx}" cy="${cy}" r="2.5"/>`
    })
    const label = `<text class="${style}" x="${left + PANEL}" y="${y(us.at(-1) ?? 1) - 9}" text-anchor="end">${name}</text>`
    return `<path class="${style}" d="M${points.join('L')}"/>${dots.join('')}${label}`
  })
  const head = `<text x="${left}" y="18">CPU by ${title}</text>`
  return [head, ...grid, ...ticks, ...drawn].join('')
}

function scale(from: number, to: number, start: number, end: number): (value: number) => number {
  const span = Math.log(to) - Math.log(from)
  return (value) => start + ((Math.log(value) - Math.log(from)) / span) * (end - start)
}

const time = (us: number) =>
  us < 1000 ? `${us} µs` : us < 1e6 ? `${us / 1000} ms` : `${us / 1e6} s`
