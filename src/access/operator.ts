// Recognises the operator by OPERATOR_TOKEN. Without that secret there is no operator.
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
  const expected = token === '' ? null : sha256(token)
  return async (headers) => {
    const bearer = bearerOf(headers)
    if (bearer === null || expected === null) return false
    const [a, b] = [await sha256(bearer), await expected]
    let difference = 0
    for (let i = 0; i < a.length; i++) difference |= a.charCodeAt(i) ^ b.charCodeAt(i)
    return difference === 0
  }
}

/** The bearer token of a request (RFC 6750, 2.1), or null. */
export function bearerOf(headers: Headers): string | null {
  return /^Bearer +(\S+) *$/i.exec(headers.get('authorization') ?? '')?.[1] ?? null
}
