/** Changes a log. A reader who has scrolled back stays there. @param {Element} log @param {() => void} change */
export function follow(log, change) {
  const isNearEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 60
  change()
  if (isNearEnd) log.scrollTop = log.scrollHeight
}
