// What the elements say to visitors. The attribute `texts` replaces any of it, for other languages.

/** @import { CompletionError } from '../client.d.ts' */

const words = {
  /** The language of times. */
  lang: 'en',
  label: 'Conversation',
  you: 'You',
  assistant: 'Assistant',
  message: 'Message',
  send: 'Send',
  stop: 'Stop',
  retry: 'Try again',
  stopped: 'Stopped.',
  note: 'Answers are written by AI and can be wrong.',
  complete: 'Continue writing',
  suggestion: 'Suggested by AI. Tab inserts it, Escape dismisses it.',
  insert: 'Insert',
  dismiss: 'Dismiss',
  busy: 'Too many requests. Try again {time}.',
  limit: 'There are no more answers for now. Try again {time}.',
  later: 'later',
  long: 'This text cannot be sent. Try a shorter one.',
  nothing: 'There is no answer to this.',
  off: 'This is not available here.',
  down: 'There is no connection to the assistant. Try again in a moment.',
  cut: 'The answer broke off.',
}

/** @typedef {typeof words} Words */

/** @param {object | null} own @returns {Words} */
export const wordsWith = (own) => ({ ...words, ...own })

/**
 * A failure in plain words.
 *
 * @param {{ code?: string, status?: number, retryAfter?: number | null }} error
 * @param {Words} texts
 */
export function explain({ code = '', status = 0, retryAfter }, texts) {
  if (status === 429) {
    const text = /budget|paused/.test(code) ? texts.limit : texts.busy
    return text.replace('{time}', retryAfter ? after(retryAfter, texts.lang) : texts.later)
  }
  if (code === 'no_passages' || code === 'empty') return texts.nothing
  if (status === 200 || code === 'restarted') return texts.cut
  if (status === 413 || /invalid_value|refused_/.test(code)) return texts.long
  return status < 400 || status >= 500 || /challenge|token/.test(code) ? texts.down : texts.off
}

/** Whether the endpoint may accept the last message without those before it. @param {Pick<CompletionError, 'param' | 'status'>} error */
export const isTooLong = ({ param, status }) => param === 'messages' || status === 413

/** A time from now, such as "in 40 seconds". @param {number} seconds @param {string} language */
function after(seconds, language) {
  let format = new Intl.RelativeTimeFormat('en')
  try {
    format = new Intl.RelativeTimeFormat(language)
  } catch {
    // A name such as "de_DE" is not a language tag.
  }
  if (seconds < 100) return format.format(seconds, 'second')
  const minutes = Math.ceil(seconds / 60)
  return minutes < 100
    ? format.format(minutes, 'minute')
    : format.format(Math.ceil(minutes / 60), 'hour')
}
