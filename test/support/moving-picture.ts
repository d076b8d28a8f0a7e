// A moving picture for docs/: screenshots of a page in one SVG, which shows them in turn.
import { writeFile } from 'node:fs/promises'
import type { Page } from 'playwright-core'

interface Frame {
  /** In base 64. */
  readonly png: string
  readonly caption: string
  readonly at: number
}

const WIDTH = 640
const CAPTION = 36

export class MovingPicture {
  readonly #frames: Frame[] = []
  readonly #page: Page
  readonly #height: number
  #end = 0

  /** @param height of the part of the page that is shown, from its top */
  constructor(page: Page, height: number) {
    this.#page = page
    this.#height = height
  }

  /** Adds a screenshot that is shown for this time, by default for as long as it took. */
  async frame(caption: string, shownMs?: number): Promise<void> {
    const begun = performance.now()
    const clip = { x: 0, y: 0, width: WIDTH, height: this.#height }
    const png = (await this.#page.screenshot({ clip })).toString('base64')
    const shown = this.#frames.at(-1)
    if (shown?.png !== png || shown.caption !== caption) {
      this.#frames.push({ png, caption, at: this.#end })
    }
    this.#end += shownMs ?? Math.round(performance.now() - begun)
  }

  /** Readers who prefer no motion see the last frame. */
  async svg(title: string): Promise<string> {
    const images = await Promise.all(this.#frames.map(({ png }) => this.#webp(png)))
    const last = this.#frames.length - 1
    const percent = (ms: number) => `${((100 * ms) / this.#end).toFixed(2)}%`
    const rules = this.#frames.map(({ at }, i) => {
      const until = this.#frames[i + 1]?.at ?? this.#end
      const before = at === 0 ? '' : '0%{visibility:hidden}'
      const after = until === this.#end ? '' : `${percent(until)}{visibility:hidden}`
      return `@keyframes f${i}{${before}${percent(at)}{visibility:visible}${after}}#f${i}{animation-name:f${i}}`
    })
    const groups = this.#frames.map(({ caption }, i) =>
      [
        `<g id="f${i}"${i === last ? ' class="last"' : ''}>`,
        `<image width="${WIDTH}" height="${this.#height}" href="${images[i]}"/>`,
        `<text x="20" y="${this.#height + 23}">${caption}</text></g>`,
      ].join(''),
    )
    return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${this.#height + CAPTION}" role="img" aria-label="${title}">
<style>rect{fill:#22201c}text{font:14px ui-monospace,monospace;fill:#ece9e2}g{visibility:hidden;animation:${this.#end}ms step-end infinite}${rules.join('')}@media(prefers-reduced-motion:reduce){g{animation-duration:0s}.last{visibility:visible}}</style>
<rect width="${WIDTH}" height="${this.#height + CAPTION}"/>
${groups.join('\n')}
</svg>
`
  }

  /**
   * A third of the bytes of PNG. The page's own Chromium can write it, Playwright cannot. Without an <img>,
   * which the page's Content-Security-Policy may refuse.
   */
  async #webp(png: string): Promise<string> {
    return await this.#page.evaluate<string>(`(async () => {
      const bytes = Uint8Array.from(atob('${png}'), (character) => character.charCodeAt(0))
      const image = await createImageBitmap(new Blob([bytes]))
      const canvas = document.createElement('canvas')
      canvas.width = image.width
      canvas.height = image.height
      canvas.getContext('2d').drawImage(image, 0, 0)
      return canvas.toDataURL('image/webp', 0.4)
    })()`)
  }

  /** Saves docs/<name>.svg, only with PICTURES=1. */
  async save(name: string, svg: string): Promise<void> {
    if (process.env['PICTURES']) await writeFile(`docs/${name}.svg`, svg)
  }
}
