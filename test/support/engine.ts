// What tests do in an engine other than Chromium. Firefox and WebKit are driven by small drivers of our
// own: playwright-core only drives builds of its own.
import axe from 'axe-core'
import { expect } from 'vitest'
import { ACCESSIBILITY_FAULTS } from './browser.ts'

export type Scheme = 'light' | 'dark'
export type Params = Readonly<Record<string, unknown>>

const CONTROL = '\uE009'
const SHIFT = '\uE008'
/** Keys, as WebDriver has them. https://www.w3.org/TR/webdriver2/#keyboard-actions */
export const ENTER = '\uE006'
export const ESCAPE = '\uE00C'
export const TAB = '\uE004'
export const RIGHT = '\uE014'
export const DOWN = '\uE015'

/** A running browser with one window. */
export abstract class Engine {
  /** Errors of the console, policies included, and uncaught exceptions. */
  readonly errors: string[] = []

  abstract goto(url: string): Promise<void>
  /** Sets the width and height of the viewport, in CSS pixels. */
  abstract resize(width: number, height: number): Promise<void>
  /** Runs the body of an async function regardless of the page's policy, and returns its string. */
  abstract run(body: string): Promise<string>
  abstract close(): Promise<void>
  /** Key actions, as both WebDriver and WebDriver BiDi have them. */
  protected abstract act(actions: readonly Params[]): Promise<void>

  /** The value of an expression, as a string. */
  async text(expression: string): Promise<string> {
    return await this.run(`return String(await (${expression}))`)
  }

  /** Presses keys, one after the other. */
  async press(...keys: readonly string[]): Promise<void> {
    await this.act(keys.flatMap((value) => [down(value), up(value)]))
  }

  /** Presses a key while Control is pressed. */
  async control(value: string): Promise<void> {
    await this.act([down(CONTROL), down(value), up(value), up(CONTROL)])
  }

  /** Presses Tab, with Shift if `back`, until an element that matches this selector has the focus. */
  async tabTo(selector: string, { back = false } = {}): Promise<void> {
    const reached = `(() => {
      let element = document.activeElement
      while (element?.shadowRoot?.activeElement) element = element.shadowRoot.activeElement
      return element?.matches(${JSON.stringify(selector)})
    })()`
    for (let presses = 0; (await this.text(reached)) !== 'true'; presses += 1) {
      if (presses > 60) throw new Error(`Tab does not reach ${selector}`)
      if (back) await this.act([down(SHIFT), down(TAB), up(TAB), up(SHIFT)])
      else await this.press(TAB)
    }
  }

  /** Goes to a button with Tab, and presses it. */
  async pressButton(selector: string): Promise<void> {
    await this.tabTo(selector)
    await this.pressFocused()
  }

  protected async pressFocused(): Promise<void> {
    await this.press(ENTER)
  }

  /** Expects that the page fits its window, and that axe finds nothing. */
  async expectFit(): Promise<void> {
    await expect
      .poll(() =>
        this.text('document.documentElement.scrollWidth - document.documentElement.clientWidth'),
      )
      .toBe('0')
    // Colours between two states have any contrast.
    await expect.poll(() => this.text('document.getAnimations().length')).toBe('0')
    await this.run(axe.source)
    const faults = await this.text(`${ACCESSIBILITY_FAULTS}.then(JSON.stringify)`)
    expect(JSON.parse(faults)).toEqual([])
  }
}

const down = (value: string) => ({ type: 'keyDown', value })
const up = (value: string) => ({ type: 'keyUp', value })
