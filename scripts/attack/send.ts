// Sends one request of an attack, and reads what comes back or disconnects.
import type { Shot } from './shot.ts'

export interface Received {
  /** `left`: disconnected on purpose; `cut`: the run was over; `broken`: the connection failed. */
  readonly how: 'whole' | 'left' | 'cut' | 'broken'
  /** 0 without a response. */
  readonly status: number
  readonly headers: Headers
  readonly text: string
}

const GIVE_UP_MS = 60_000
/** Long enough for the body to be sent. */
const LEAVE_MS = 20

export interface SendContext {
  readonly url: URL
  /** The value of `Last-Event-ID` that resumes the last stream. */
  readonly resumeFrom: string
  /** When aborted, the request is cut off. */
  readonly signal: AbortSignal
}

/** Never rejects. */
export async function send(shot: Shot, context: SendContext): Promise<Received> {
  const leaving = new AbortController()
  const given = AbortSignal.any([context.signal, leaving.signal, AbortSignal.timeout(GIVE_UP_MS)])
  const timer =
    shot.leaves === 'when sent' ? setTimeout(() => leaving.abort(), LEAVE_MS) : undefined
  let [status, headers, text] = [0, new Headers(), '']
  const received = (how: Received['how']) => ({ how, status, headers, text })
  try {
    const response = await fetch(requestOf(shot, context, given))
    ;({ status, headers } = response)
    const decoder = new TextDecoder()
    for await (const part of response.body ?? []) {
      text += decoder.decode(part, { stream: true })
      if (shot.leaves === 'in the answer') {
        leaving.abort()
        return received('left')
      }
    }
    return received('whole')
  } catch {
    if (leaving.signal.aborted) return received('left')
    return received(context.signal.aborted ? 'cut' : 'broken')
  } finally {
    clearTimeout(timer)
  }
}

function requestOf(shot: Shot, { url, resumeFrom }: SendContext, signal: AbortSignal): Request {
  const { method, path, body } = shot
  const headers = new Headers(shot.headers)
  if (shot.resumes) headers.set('last-event-id', resumeFrom)
  return new Request(new URL(path, url), { method, headers, body, signal, redirect: 'manual' })
}
