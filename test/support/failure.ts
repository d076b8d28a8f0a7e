// The GatewayErrors of promises and functions.
import { GatewayError } from '../../src/errors.ts'

/** The GatewayError that a promise rejects with. */
export async function failureOf(work: Promise<unknown>): Promise<GatewayError> {
  const error = await work.then(
    () => null,
    (thrown: unknown) => thrown,
  )
  if (!(error instanceof GatewayError)) throw new Error('expected a GatewayError')
  return error
}

/** The code, param and message of the GatewayError that a function throws. */
export function refusalOf(work: () => unknown) {
  try {
    work()
  } catch (error) {
    if (!(error instanceof GatewayError)) throw error
    const { code, param, message } = error
    return { code, param, message }
  }
  throw new Error('expected a GatewayError')
}
