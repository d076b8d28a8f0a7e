// Short helpers for finding elements by id.

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
