// Commands that are printed for the user to copy.

/**
 * A command for a POSIX shell. A word with any other character than these is in quotes: an address may
 * have "&", at which a shell would cut it, and one that a site names may hold a command.
 */
export function shellCommand(...words: readonly string[]): string {
  return words.map((word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : quoted(word))).join(' ')
}

const quoted = (word: string) => `'${word.replaceAll("'", `'\\''`)}'`
