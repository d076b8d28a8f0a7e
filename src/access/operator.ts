// Recognises the operator by OPERATOR_TOKEN. Without that secret there is no operator.
import { GatewayError, messages } from '../errors.ts'
import { sha256 } from '../hash.ts'

/** Whether `Authorization: Bearer …` has the operator's token. */
export type IsOperator = (headers: Headers) => Promise<boolean>

/**
 * Every wrong token takes the same time. Comparing digests instead of tokens reveals neither the
 * length nor how much of a guess is right.
 *
 * @param token OPERATOR_TOKEN; "": there is no operator
 */
export function operatorCheck(token: string): IsOperator {
  /** Not a promise: in workerd a request cannot wait for another request's I/O. */
  let expected: string | null = null
  return async (headers) => {
    const bearer = bearerOf(headers)
    if (bearer === null || token === '') return false
    expected ??= await sha256(token)
    const given = await sha256(bearer)
    let difference = 0
    for (let i = 0; i < given.length; i++) {
      difference |= given.charCodeAt(i) ^ expected.charCodeAt(i)
    }
    return difference === 0
  }
}

/** @throws GatewayError `operator_token_invalid` */
export async function requireOperator(headers: Headers, isOperator: IsOperator): Promise<void> {
  if (await isOperator(headers)) return
  throw new GatewayError('operator_token_invalid', messages.operator_token_invalid)
}

/** The bearer token of a request (RFC 6750, 2.1), or null. */
export function bearerOf(headers: Headers): string | null {
  return /^Bearer +(\S+) *$/i.exec(headers.get('authorization') ?? '')?.[1] ?? null
}
