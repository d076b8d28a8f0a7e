// examples/warm.yml is a valid GitHub workflow, and runs commands that exist with valid arguments.
import { readFileSync } from 'node:fs'
import { expect, inject, test } from 'vitest'
import { parse } from 'yaml'
import { parseArguments as indexArguments } from '../../scripts/index/arguments.ts'
import { parseArguments as warmArguments } from '../../scripts/warm/arguments.ts'

interface Step {
  readonly uses?: string
  readonly run?: string
  readonly with?: Readonly<Record<string, unknown>>
  readonly env?: Readonly<Record<string, string>>
}

const text = readFileSync('examples/warm.yml', 'utf8')
// Strict parsing, so that a duplicate key is an error, for example.
const workflow = parse(text, { strict: true, uniqueKeys: true, prettyErrors: true })
const steps: readonly Step[] = workflow.jobs.warm.steps
const { scripts } = JSON.parse(readFileSync('package.json', 'utf8'))

test('the workflow runs after a successful deploy and on demand', () => {
  expect(Object.keys(workflow.on)).toEqual(['workflow_run', 'workflow_dispatch'])
  expect(workflow.on.workflow_run).toEqual({
    workflows: [expect.any(String)],
    types: ['completed'],
  })
  expect(workflow.jobs.warm.if).toContain("workflow_run.conclusion == 'success'")
})

test('the workflow has read access only, a time limit, and is cancelled by the next deploy', () => {
  expect(workflow.permissions).toEqual({ contents: 'read' })
  expect(workflow.jobs.warm['timeout-minutes']).toBeLessThanOrEqual(60)
  expect(workflow.concurrency['cancel-in-progress']).toBe(true)
})

test('each step uses an action of GitHub pinned by commit, or runs an existing command', () => {
  for (const { uses, run } of steps) {
    expect([uses, run].filter((each) => each !== undefined)).toHaveLength(1)
    if (uses !== undefined) {
      expect(uses).toMatch(/^actions\/(checkout|setup-node)@[\da-f]{40}$/)
      // The release is in a comment, for readers and for tools that propose updates.
      expect(text).toMatch(new RegExp(`uses: ${uses} # v\\d+\\.\\d+\\.\\d+\n`))
    }
    const [, script] = /^npm run (\S+)/.exec(run ?? '') ?? []
    if (script !== undefined) expect(Object.keys(scripts)).toContain(script)
    else if (run !== undefined) expect(run).toBe('npm ci')
  }
  const node = steps.find(({ uses }) => uses?.startsWith('actions/setup-node'))
  expect(node?.with?.['node-version']).toBeGreaterThanOrEqual(22)
})

/** The arguments of a command, with the variables of its job, and the variables of its own. */
function command(name: string) {
  const step = steps.find(({ run }) => run?.startsWith(`npm run ${name} -- `))
  const env: Readonly<Record<string, string>> = workflow.jobs.warm.env
  const args = (step?.run ?? '')
    .replace(`npm run ${name} -- `, '')
    .split(' ')
    .map((word) => word.replace(/^"\$(\w+)"$/, (_, variable) => env[variable] ?? 'unknown'))
  return { args, own: step?.env }
}

const SITEMAP = 'https://example.com/sitemap.xml'
const WORKER = 'https://edge-completions.you.workers.dev/'
const TOKEN = '$' + '{{ secrets.OPERATOR_TOKEN }}'

test('the index command has valid arguments', () => {
  const { args, own } = command('index')
  expect(own).toEqual({ OPERATOR_TOKEN: TOKEN })
  expect(indexArguments(args)).toMatchObject({ url: WORKER, sitemap: SITEMAP, dryRun: false })
})

test('the warm command has valid arguments and uses a shipped prompt', () => {
  const { args, own } = command('warm')
  expect(own).toEqual({ OPERATOR_TOKEN: TOKEN })
  expect(warmArguments(args)).toMatchObject({
    url: WORKER,
    source: { kind: 'sitemap', sitemap: SITEMAP, prompt: 'summary' },
  })
  const rawConfig = inject('wranglerConfig')
  expect(rawConfig.vars?.['CONFIG']).toMatchObject({ prompts: { summary: { spend: 'operator' } } })
})
