// What `GET /admin/usage` says of the day's budget. Only the operator can read it.
import { isCount, isRecord, parseJson } from '../../src/json.ts'
import { type Gateway, refusalIn } from '../operator/gateway.ts'

export interface Figures {
  /** Unix seconds, by the Worker's clock. */
  readonly now: number
  readonly tokensPerDay: number
  readonly spent: number
  readonly reserved: number
  /** The part of `spent` that upstreams reported above what was reserved. */
  readonly above: number
  /** 0: no limit. */
  readonly usdPerDay: number
  readonly usdSpent: number
}

/** @throws Error for the user, also if the Worker refuses */
export async function readFigures(gateway: Gateway): Promise<Figures> {
  const { status, text } = await gateway.reach('/admin/usage?hours=1')
  if (status !== 200)
    throw new Error(`Cannot attack: GET /admin/usage answered ${refusalIn(status, text)}`)
  const usage = parseJson(text)
  const budget = isRecord(usage) ? usage['budget'] : null
  if (!isRecord(usage) || !isRecord(budget) || !isCount(budget['tokens_per_day'])) {
    throw new Error('Cannot attack: GET /admin/usage has no budget')
  }
  const number = (name: string) => Number(budget[name] ?? 0)
  return {
    now: Number(usage['now']),
    tokensPerDay: number('tokens_per_day'),
    spent: number('spent'),
    reserved: number('reserved'),
    above: number('above_reservations'),
    usdPerDay: number('usd_per_day'),
    usdSpent: number('usd_spent'),
  }
}

/** What can still be spent today. */
export const leftOf = ({ tokensPerDay, spent, reserved }: Figures): number =>
  Math.max(0, tokensPerDay - spent - reserved)
