// Which attacks a run makes, in which order: the same seed against the same Worker makes the same ones.
import { seeded, shuffled } from '../../test/support/random.ts'
import { attacks } from './attacks.ts'
import type { Aim, Shot, Volley } from './shot.ts'
import type { Target } from './target.ts'

export interface PlanOptions {
  readonly requests: number
  readonly seed: number
  /** No origin is expected to be refused. */
  readonly anyOrigin: boolean
}

/** Every attack once, then again, each time in another order, with `requests` requests in all. */
export function planOf(target: Target, { requests, seed, anyOrigin }: PlanOptions): Volley[] {
  const random = seeded(seed)
  let texts = 0
  const aim: Aim = { target, random, seed, serial: () => ++texts }
  const volleys: Volley[] = []
  for (let left = requests; left > 0; ) {
    for (const [name, attack] of shuffled(Object.entries(attacks), random)) {
      const { order, shots } = attack(aim)
      const used = shots.slice(0, left).map((shot) => (anyOrigin ? lenient(shot) : shot))
      if (used.length > 0) volleys.push({ name, order, shots: used })
      left -= used.length
    }
  }
  return volleys
}

const lenient = (shot: Shot): Shot =>
  shot.expects === 'origin refused' ? { ...shot, expects: 'any' } : shot
