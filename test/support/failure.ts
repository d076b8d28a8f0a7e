/** The GatewayError that a promise rejects with. */
import { GatewayError } from '../../src/errors.ts'

export async function failureOf(work: Promise<unknown>): Promise<GatewayError> {
  const error = await work.then(
    () => null,
    (thrown: unknown) => thrown,
  )
  if (!(error instanceof GatewayError)) throw new Error('expected a GatewayError')
  return error
}
