// Who is the owner behind OPERATOR_TOKEN. Without that secret nobody is.

export class Operator {
  readonly #expected: Promise<Uint8Array> | null

  /** @param token the secret, or null where there is none */
  constructor(token: string | null) {
    this.#expected = token === null || token === '' ? null : digest(token)
  }

  /** Whether `Authorization: Bearer …` holds the token. Takes the same time for every wrong one. */
  async isOperator(headers: Headers): Promise<boolean> {
    const bearer = bearerOf(headers)
    if (bearer === null || this.#expected === null) return false
    return sameBytes(await digest(bearer), await this.#expected)
  }
}

/** The bearer of a request (RFC 6750, 2.1), or null. */
export function bearerOf(headers: Headers): string | null {
  const header = headers.get('authorization')
  return header === null ? null : (/^Bearer +(\S+) *$/i.exec(header)?.[1] ?? null)
}

/** Digests have one length, and tell nothing about how much of a guess was right. */
async function digest(text: string): Promise<Uint8Array> {
  return new Uint8Array(await crypto.subtle.digest('SHA-256', new TextEncoder().encode(text)))
}

function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  let difference = a.length ^ b.length
  for (const [i, byte] of a.entries()) difference |= byte ^ (b[i] ?? 0)
  return difference === 0
}
