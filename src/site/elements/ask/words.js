// What <edge-ask> says to visitors, besides the words of all elements. `texts` replaces any of it.

export const words = {
  label: 'Search and ask',
  placeholder: 'Search, or ask a question',
  ask: 'Ask',
  hits: 'Results: {count}. Choose one with Up and Down, or press Enter to ask.',
  none: 'No results. Press Enter to ask.',
  answers: 'Answers',
  sources: 'Sources',
  nothing: 'No answer was found on this site.',
  nearest: 'Nearest pages',
  off: 'Search is not available here yet.',
}

/** @typedef {typeof words & import('../words.js').Words} Words */
