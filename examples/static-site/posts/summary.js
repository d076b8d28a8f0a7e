// The "Summary" buttons. Each shows the summary of a page that the owner has generated in advance. It only
// reads the cache, so visitors cannot cause any cost.

// The address of your Worker: https://edge-completions.YOU.workers.dev
const endpoint = 'http://localhost:8787'

for (const box of document.querySelectorAll('.summary')) {
  const [button, text] = box.querySelectorAll('button, p')
  button.addEventListener('click', async () => {
    text.ariaBusy = 'true'
    const [shown, absent] = await summaryOf(new URL(box.dataset.page, location))
    // Always use textContent: model output must never be parsed as HTML.
    text.textContent = shown
    text.toggleAttribute('data-absent', absent)
    text.ariaBusy = 'false'
  })
}

/** The text to show, and whether it is a message instead of a summary. */
async function summaryOf(page) {
  try {
    const { complete } = await import(`${endpoint}/client.js`)
    const prompt = { id: 'summary', variables: { page: page.href } }
    // A single GET without a preflight, which the browser may cache as well.
    return [await complete(prompt, { cached: 'only' }), false]
  } catch ({ code, message }) {
    if (code === 'not_cached') return ['This page has no summary yet.', true]
    // Errors of the client have a readable message. An error without a code means that client.js did not load.
    return [code ? message : `Could not reach ${endpoint}. Is the Worker running?`, true]
  }
}
