// Recognises the operator by OPERATOR_TOKEN. Without that secret there is no operator.

/** Whether `Authorization: Bearer …` has the operator's token. */
export type IsOperator = (headers: Headers) => Promise<boolean>

/**
 * Every wrong token takes the same time.
 *
 * @param token OPERATOR_TOKEN; "": there is no operator
 */
export function operatorCheck(token: string): IsOperator {
  const expected = token === '' ? null : digest(token)
  return async (headers) => {
    const bearer = bearerOf(headers)
    if (bearer === null || expected === null) return false
    return sameBytes(await digest(bearer), await expected)
  }
}

/** The bearer token of a request (RFC 6750, 2.1), or null. */
export function bearerOf(headers: Headers): string | null {
  const header = headers.get('authorization')
  return header === null ? null : (/^Bearer +(\S+) *$/i.exec(header)?.[1] ?? null)
}

/**
 * Comparing digests instead of tokens reveals neither the length nor how much of a guess is right.
 */
async function digest(text: string): Promise<Uint8Array> {
  return new Uint8Array(await crypto.subtle.digest('SHA-256', new TextEncoder().encode(text)))
}

function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  let difference = a.length ^ b.length
  for (const [i, byte] of a.entries()) difference |= byte ^ (b[i] ?? 0)
  return difference === 0
}
