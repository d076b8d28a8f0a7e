// The "Summary" buttons. Each names a page of this site and gets what the owner has had said of it,
// from the cache and from nowhere else: whatever visitors do here costs nothing.

// Your Worker: https://edge-completions.YOU.workers.dev
const endpoint = 'http://localhost:8787'

for (const box of document.querySelectorAll('.summary')) {
  const [button, text] = box.querySelectorAll('button, p')
  button.addEventListener('click', async () => {
    text.ariaBusy = 'true'
    const [said, absent] = await summaryOf(new URL(box.dataset.page, location))
    // Always textContent: what a model says is text, whatever it looks like.
    text.textContent = said
    text.toggleAttribute('data-absent', absent)
    text.ariaBusy = 'false'
  })
}

/** What to show, and whether it is a word in place of a summary. */
async function summaryOf(page) {
  try {
    const { complete } = await import(`${endpoint}/client.js`)
    const prompt = { id: 'summary', variables: { page: page.href } }
    // One GET: no preflight, and the browser keeps the answer for a while, too.
    return [await complete(prompt, { cached: 'only' }), false]
  } catch ({ code, message }) {
    if (code === 'not_cached') return ['The author has not had this page summed up yet.', true]
    // Errors of the client are written to be read; without a code the client itself was not there.
    return [code ? message : `No summary from ${endpoint}: is it running?`, true]
  }
}
