// What `npm run attack` prints.
import type { Config } from '../../src/config/config.ts'
import { printable } from '../operator/printable.ts'
import { number } from '../operator/report.ts'
import { type Figures, leftOf } from './figures.ts'
import type { Result } from './run.ts'
import type { Volley } from './shot.ts'
import type { Target } from './target.ts'

/**
 * The dearest price of a token in USD; null if it is not known.
 *
 * @param models the ids that the Worker lists: the settings may be those of another one
 */
export function dearestToken(
  config: Pick<Config, 'models'> | null,
  { models }: Pick<Target, 'models'>,
): number | null {
  const known = config === null ? [] : [...config.models.keys()]
  if (known.toSorted().join('\n') !== models.toSorted().join('\n')) return null
  const prices = [...(config?.models.values() ?? [])].flatMap((model) => model.prices)
  if (prices.length === 0 || prices.includes(null)) return null
  return Math.max(...prices.flatMap((price) => [price?.input ?? 0, price?.output ?? 0])) / 1e6
}

/** "1,234 tokens = $0.0012". Without a price, the tokens alone. */
function cost(tokens: number, usd: number | null): string {
  return `${number(tokens)} tokens${usd === null ? '' : ` = $${dollars(usd)}`}`
}

/** Whole cents, and at least two digits of smaller sums. */
const dollars = new Intl.NumberFormat('en', {
  minimumFractionDigits: 2,
  maximumFractionDigits: 2,
  maximumSignificantDigits: 2,
  roundingPriority: 'morePrecision',
}).format

/** What a number of tokens costs at most on this day. */
function dearest(tokens: number, perToken: number | null, usdLeft: number | null): number | null {
  if (perToken === null) return usdLeft
  return Math.min(tokens * perToken, usdLeft ?? Number.POSITIVE_INFINITY)
}

/**
 * What the whole budget of a day can cost.
 *
 * @internal exported for its tests
 */
export function worstDay({ tokensPerDay, usdPerDay }: Figures, perToken: number | null): string {
  const usd = dearest(tokensPerDay, perToken, usdPerDay > 0 ? usdPerDay : null)
  return `Worst case for one day: ${cost(tokensPerDay, usd)}.`
}

/** What the rest of the day can cost. */
export function risk(figures: Figures, perToken: number | null): string {
  const { usdPerDay, usdSpent } = figures
  const left = leftOf(figures)
  const usdLeft = usdPerDay > 0 ? Math.max(0, usdPerDay - usdSpent) : null
  return cost(left, dearest(left, perToken, usdLeft))
}

/** The dry run: how many requests of each attack, and what they could cost. */
export function forecast(
  plan: readonly Volley[],
  { figures, perToken }: { readonly figures: Figures; readonly perToken: number | null },
): string {
  const counts = new Map<string, number>()
  for (const { name, shots } of plan) counts.set(name, (counts.get(name) ?? 0) + shots.length)
  const shots = plan.flatMap((volley) => volley.shots)
  const tokens = shots.reduce((sum, shot) => sum + shot.tokens, 0)
  return [
    ...[...counts].map(([name, n]) => `${name.padEnd(28)}${number(n).padStart(6)} requests`),
    worstDay(figures, perToken),
    `These ${number(shots.length)} requests ask for at most about ${number(tokens)} tokens, not counting retries and fallbacks. The budget allows ${risk(figures, perToken)} more today.`,
    'Nothing was sent.',
  ].join('\n')
}

/** The counts of each attack, the sums, and every promise that was broken. */
export function summary(result: Result, perToken: number | null): string {
  const { before, after, counts, refusals, faults } = result
  const rows = [...counts].map(([name, { answered, refused, ended }]) => {
    const facts = [`${number(answered)} answered`, `${number(refused)} refused`]
    if (ended > 0) facts.push(`${number(ended)} without a response`)
    return `${name.padEnd(28)}${facts.join(', ')}`
  })
  const codes = [...refusals].toSorted(([, a], [, b]) => b - a)
  const refused = codes.reduce((sum, [, n]) => sum + n, 0)
  const sent = [...counts.values()].reduce((sum, n) => sum + n.answered + n.refused + n.ended, 0)
  const list = codes.map(([code, n]) => `${number(n)} ${printable(code)}`).join(', ')
  return [
    ...rows,
    worstDay(before, perToken),
    ...(after === null ? [] : [spentLine(before, after)]),
    `It refused ${number(refused)} of ${number(sent)} requests${list === '' ? '' : `: ${list}`}.`,
    ...faults.map(
      ({ what, times, where }) =>
        `BROKEN  ${number(times)} × ${printable(what)} (${printable(where)})`,
    ),
    verdict(faults.length),
  ].join('\n')
}

function spentLine(before: Figures, after: Figures): string {
  const tokens = Math.max(0, after.spent - before.spent)
  const usd = Math.max(0, after.usdSpent - before.usdSpent)
  const hasPrice = after.usdSpent > 0
  const running = after.reserved > 0 ? ` ${number(after.reserved)} more are still reserved.` : ''
  return `This attack spent ${cost(tokens, hasPrice ? usd : null)}.${running}`
}

function verdict(faults: number): string {
  if (faults === 0) return 'Every promise held.'
  return faults === 1 ? '1 promise was broken.' : `${number(faults)} promises were broken.`
}
