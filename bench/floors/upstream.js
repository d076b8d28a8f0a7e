// Shared by the floors with an upstream: the upstream call, and the loop that parses the events of a stream
// and serializes them again.
const encoder = new TextEncoder()

export function ask(upstream, prompt) {
  const messages = [{ role: 'user', content: prompt }]
  return fetch(upstream, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ model: 'm', messages, stream: true }),
  })
}

/**
 * Writes the first text immediately, and later text after a coalescing window. 0 disables coalescing.
 * @returns the complete text
 */
export async function push(body, writer, gatherMs, id) {
  const decoder = new TextDecoder()
  let rest = ''
  let text = ''
  let waiting = ''
  let timer = null
  const flush = () => {
    timer = null
    const bytes = encoder.encode(waiting)
    waiting = ''
    return writer.write(bytes)
  }
  for await (const bytes of body) {
    rest += decoder.decode(bytes, { stream: true })
    const events = rest.split('\n\n')
    rest = events.pop()
    for (const event of events) {
      const data = event.slice('data: '.length)
      if (data === '[DONE]') continue
      const [choice] = JSON.parse(data).choices
      if (choice === undefined) continue
      const piece = choice.delta.content ?? ''
      const first = text === ''
      text += piece
      waiting += `data: ${completion(id, piece, choice.finish_reason)}\n\n`
      if (first || gatherMs === 0) await flush()
      else timer ??= setTimeout(flush, gatherMs)
    }
  }
  clearTimeout(timer)
  waiting += 'data: [DONE]\n\n'
  await flush()
  await writer.close()
  return text
}

export function completion(id, text, finish_reason) {
  return JSON.stringify({
    id,
    object: 'text_completion',
    created: 1,
    model: 'm',
    choices: [{ text, index: 0, logprobs: null, finish_reason }],
  })
}
