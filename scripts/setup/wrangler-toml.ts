// The owner's part of wrangler.toml: everything between two marker lines. Setup writes it, and
// upgrades of this project leave it alone.

const BEGIN =
  '# ---- Your settings begin here: "npm run setup" writes them, upgrades leave them alone. ----'
const END = '# ---- Your settings end here. ----'

/**
 * The file with other settings. Without markers, which files of earlier versions do not have, the
 * settings replace all tables of CONFIG.
 *
 * @throws Error if only one of the markers is there
 */
export function withSettings(file: string, settings: string): string {
  const lines = file.replaceAll('\r\n', '\n').split('\n')
  const [begin, end] = [BEGIN, END].map((marker) => lines.indexOf(marker)) as [number, number]
  const block = [BEGIN, ...settings.trimEnd().split('\n'), END]
  if (begin === -1 && end === -1) return [...withoutConfig(lines), '', ...block, ''].join('\n')
  if (begin === -1 || end < begin) {
    throw new Error(
      `Cannot find your settings in wrangler.toml: expected them between these two lines:\n${BEGIN}\n${END}`,
    )
  }
  return [...lines.slice(0, begin), ...block, ...lines.slice(end + 1)].join('\n')
}

/** The lines outside of the tables of CONFIG, and of the comments above them. */
function withoutConfig(lines: readonly string[]): string[] {
  const kept: string[] = []
  let isConfig = false
  let comments: string[] = []
  for (const line of lines) {
    if (/^\s*(#|$)/.test(line)) {
      comments.push(line)
      continue
    }
    if (/^\s*\[/.test(line)) isConfig = /^\s*\[\[?\s*vars\s*\.\s*CONFIG\s*[.\]]/.test(line)
    if (!isConfig) kept.push(...comments, line)
    comments = []
  }
  while (kept.at(-1)?.trim() === '') kept.pop()
  return kept
}
