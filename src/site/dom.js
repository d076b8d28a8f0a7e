// Short helpers: finding elements by id, and rows of tabs.

/** @param {string} id @returns {HTMLElement} */
export const at = (id) => document.getElementById(id) ?? document.body
/** @param {string} id */
export const input = (id) => /** @type {HTMLInputElement} */ (at(id))
/** @param {string} id */
export const select = (id) => /** @type {HTMLSelectElement} */ (at(id))
/** @param {string} id */
export const button = (id) => /** @type {HTMLButtonElement} */ (at(id))
/** @param {string} id @param {string} text */
export function setText(id, text) {
  at(id).textContent = text
}

/**
 * Makes buttons a row of tabs, moved through with arrow keys, Home and End. Hidden ones are skipped.
 * https://www.w3.org/WAI/ARIA/apg/patterns/tabs/
 *
 * @param {readonly string[]} ids
 * @param {string} panel the id of the element that all of them control
 * @param {(id: string) => void} chosen
 * @returns {(id: string) => void} chooses a tab
 */
export function tabs(ids, panel, chosen) {
  const all = ids.map(button)
  /** @param {string} id */
  const choose = (id) => {
    for (const tab of all) {
      tab.ariaSelected = String(tab.id === id)
      tab.tabIndex = tab.id === id ? 0 : -1
    }
    at(panel).setAttribute('aria-labelledby', id)
    chosen(id)
  }
  for (const tab of all) {
    tab.addEventListener('click', () => choose(tab.id))
    tab.addEventListener('keydown', (event) => {
      const shown = all.filter(({ hidden }) => !hidden)
      const index = shown.indexOf(tab)
      const { length } = shown
      /** @type {Readonly<Record<string, number>>} */
      const moves = {
        ArrowRight: index + 1,
        ArrowLeft: index - 1 + length,
        Home: 0,
        End: length - 1,
      }
      const to = shown[(moves[event.key] ?? -1) % length]
      if (to === undefined || !(event.key in moves)) return
      event.preventDefault()
      choose(to.id)
      to.focus()
    })
  }
  return choose
}
