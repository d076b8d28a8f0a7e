// The charts of the dashboard: uPlot with the colours of the page's theme.
import uPlot from './uplot.js'

/**
 * @typedef {object} Chart
 * @property {'bars' | 'lines'} kind
 * @property {number[]} times unix seconds
 * @property {(number | null)[][]} series stacked already (see `stacked`); the last is drawn first
 * @property {number[]} colours of the series, 1 to 4: `--series-1` to `--series-4`
 * @property {(value: number) => string} format labels of the y axis
 */

const HEIGHT = 200

/** @type {Map<HTMLElement, { chart: Chart, plot: uPlot }>} */
const drawn = new Map()

/** @param {string} name */
function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim()
}

/**
 * Draws a chart, replacing any previous one in this box.
 *
 * @param {HTMLElement} box
 * @param {Chart} chart
 */
export function draw(box, chart) {
  drawn.get(box)?.plot.destroy()
  const { kind, times, series, colours, format } = chart
  const font = `12px ${getComputedStyle(document.body).fontFamily}`
  const axis = {
    stroke: colour('--muted'),
    font,
    grid: { stroke: colour('--line'), width: 1 },
    ticks: { show: false },
  }
  const step = (times[1] ?? 3600) - (times[0] ?? 0)
  const lines = series.map((_, i) => {
    const ink = colour(`--series-${colours[i]}`)
    return kind === 'bars'
      ? {
          fill: ink,
          width: 0,
          points: { show: false },
          paths: /** @type {uPlot.Series.PathBuilder} */ (
            uPlot.paths.bars?.({ size: [0.72, 28], radius: 0.12, align: 1 })
          ),
        }
      : { stroke: ink, width: 2, points: { size: 5, fill: ink, stroke: ink } }
  })
  const plot = new uPlot(
    {
      width: box.clientWidth,
      height: HEIGHT,
      // The last label is centred on the end of the axis.
      padding: [12, 28, 0, 0],
      cursor: { show: false },
      legend: { show: false },
      scales: {
        x: { range: (_, from, to) => [from, kind === 'bars' ? to + step : to] },
        // At least 1, so that the range is not empty when all values are zero.
        y: { range: (_, __, top) => [0, Math.max(top * 1.08, 1)] },
      },
      axes: [
        {
          ...axis,
          grid: { show: false },
          size: 30,
          space: 64,
          values: (_, times, __, ___, step) => times.map((time) => timeOf(time * 1000, step)),
        },
        {
          ...axis,
          size: 56,
          gap: 8,
          // Whole numbers only: most series are counts.
          incrs: [1, 2, 5, ...tens()],
          values: (_, values) => values.map(format),
        },
      ],
      // Draw the tallest first, so that it does not cover the others.
      series: [{}, ...lines.toReversed()],
    },
    [times, ...series.toReversed()],
    box,
  )
  drawn.set(box, { chart, plot })
}

const day = new Intl.DateTimeFormat(undefined, { day: 'numeric', month: 'short' })
const hour = new Intl.DateTimeFormat(undefined, { timeStyle: 'short' })

/**
 * The date at midnight, else the time of day. uPlot's own labels use the American format.
 *
 * @param {number} ms
 * @param {number} step seconds between two labels
 */
function timeOf(ms, step) {
  const midnight = new Date(ms).getHours() === 0
  return step >= 86_400 || midnight ? day.format(ms) : hour.format(ms)
}

/** 10, 20, 25, 50, 100 … */
function tens() {
  return Array.from({ length: 9 }, (_, i) => 10 ** (i + 1)).flatMap((n) => [
    n,
    n * 2,
    n * 2.5,
    n * 5,
  ])
}

/** Redraws all charts in the colours of the current theme. */
function drawAgain() {
  for (const [box, { chart }] of drawn) draw(box, chart)
}

matchMedia('(prefers-color-scheme: dark)').addEventListener('change', drawAgain)

const sizes = new ResizeObserver((entries) => {
  for (const { target, contentRect } of entries) {
    const { plot } = drawn.get(/** @type {HTMLElement} */ (target)) ?? {}
    const width = Math.floor(contentRect.width)
    if (plot !== undefined && width > 0 && width !== plot.width) {
      plot.setSize({ width, height: HEIGHT })
    }
  }
})

/** Resizes the charts in these boxes with the boxes. @param {HTMLElement[]} boxes */
export function keepSized(boxes) {
  for (const box of boxes) sizes.observe(box)
}
