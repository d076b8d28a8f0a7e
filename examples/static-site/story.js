// The page of stories: a completion of a locked prompt that streams into the page.

// The address of your Worker: https://edge-completions.YOU.workers.dev
const endpoint = 'http://localhost:8787'

const [form, hero, story, error, stop] = ['form', 'hero', 'story', 'error', 'stop'].map((id) =>
  document.getElementById(id),
)
let telling = new AbortController()

async function tell(name, signal) {
  const { stream } = await import(`${endpoint}/client.js`)
  // The text of this prompt is in wrangler.toml. A page can only fill in the hero.
  const prompt = { id: 'story', variables: { hero: name } }
  story.textContent = `Once upon a time ${name} went for a walk, and`
  // Always use textContent: model output must never be parsed as HTML.
  for await (const piece of stream(prompt, { signal })) story.textContent += piece
  // If free prompts are enabled, as in the shipped wrangler.toml, this works as well:
  // for await (const piece of stream('Once upon a time', { max_tokens: 80, signal })) …
}

form.addEventListener('submit', async (event) => {
  event.preventDefault()
  telling.abort()
  const mine = new AbortController()
  telling = mine
  story.textContent = error.textContent = ''
  story.ariaBusy = 'true'
  stop.disabled = false
  try {
    await tell(hero.value.trim(), mine.signal)
  } catch (reason) {
    if (mine.signal.aborted) return
    // Errors of the client have a readable message. An error without a code means that client.js did
    // not load.
    error.textContent = reason.code
      ? reason.message
      : `Could not reach ${endpoint}. Is the Worker running?`
  } finally {
    if (telling === mine) {
      story.ariaBusy = 'false'
      // Disabling the focused button would lose the focus.
      if (document.activeElement === stop) form.querySelector('button').focus()
      stop.disabled = true
    }
  }
})

stop.addEventListener('click', () => telling.abort())
