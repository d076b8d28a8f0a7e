// The commands that have the Worker read the owner's pages, as setup prints them.
import { shellCommand } from '../operator/shell.ts'
import type { Answers } from './settings.ts'

export function pageCommands({ site, offer }: Answers, endpoint: string): string[] {
  const npmRun = (name: string, ...flags: readonly string[]) =>
    shellCommand('npm', 'run', name, '--', ...flags, '--url', endpoint)
  const [asks, sumsUp] = [offer.includes('ask'), offer.includes('summaries')]
  // A site that could not be read may have one.
  const guess = site.problem === null ? null : `${site.url.origin}/sitemap.xml`
  const address = site.sitemap ?? guess
  if (address !== null) {
    const sitemap = ['--sitemap', address]
    return [
      ...(asks ? [npmRun('index', ...sitemap)] : []),
      ...(sumsUp ? [npmRun('warm', ...sitemap, '--prompt', 'summary')] : []),
    ]
  }
  if (!asks && !sumsUp) return []
  const page = `${site.origins.at(-1)}${site.folder}`
  const requests = [{ prompt: { id: 'summary', variables: { page } } }]
  return [
    ...(asks ? [`${npmRun('index', page)}      # add the addresses of your other pages`] : []),
    ...(sumsUp
      ? [
          `${npmRun('warm', 'pages.json')}      # a file that you write, with an entry for each page:`,
          JSON.stringify(requests),
        ]
      : []),
    'With a sitemap, you would not have to name pages. Most generators have a setting or a plugin for one; once it is there, run npm run setup again.',
  ]
}
