// The operator is authenticated by one token, compared in full; without a secret there is no operator.
import * as fc from 'fast-check'
import { expect, test } from 'vitest'
import { operatorCheck } from '../../src/access/operator.ts'

const TOKEN = 'the-operator-token-0123456789abcdef'

function isOperator(token: string, authorization: string | null): Promise<boolean> {
  const headers = new Headers(authorization === null ? {} : { authorization })
  return operatorCheck(token)(headers)
}

test("isOperator() accepts the token as a bearer, regardless of the scheme's case", async () => {
  for (const scheme of ['Bearer', 'bearer', 'BEARER', 'Bearer  ']) {
    expect(await isOperator(TOKEN, `${scheme} ${TOKEN}`)).toBe(true)
  }
})

test.each([
  null,
  '',
  TOKEN,
  'Bearer',
  'Bearer ',
  `Basic ${TOKEN}`,
  `Bearer ${TOKEN}x`,
  `Bearer ${TOKEN.slice(0, -1)}`,
  `Bearer ${TOKEN.toUpperCase()}`,
  `Bearer ${TOKEN} ${TOKEN}`,
  `Bearer ${TOKEN}, Bearer ${TOKEN}`,
  `Bearer Bearer ${TOKEN}`,
  'Bearer null',
  'Bearer undefined',
])('isOperator() rejects %j', async (authorization) => {
  expect(await isOperator(TOKEN, authorization)).toBe(false)
})

test('isOperator() is false for everybody if no secret is set', async () => {
  for (const authorization of [null, '', 'Bearer', 'Bearer ', 'Bearer null', `Bearer ${TOKEN}`]) {
    expect(await isOperator('', authorization)).toBe(false)
  }
})

test('isOperator() accepts only the token', async () => {
  const text = fc.string({ minLength: 1 }).filter((one) => /^[\x21-\x7e]+$/.test(one))
  await fc.assert(
    fc.asyncProperty(text, text, async (token, guess) => {
      expect(await isOperator(token, `Bearer ${guess}`)).toBe(token === guess)
      expect(await isOperator(token, `Bearer ${token}`)).toBe(true)
    }),
    { seed: 7 },
  )
})

test('isOperator() compares all bytes of digests of the same length', async () => {
  // Both are hashed first, so a partly correct guess makes no difference to the comparison.
  const { digest } = crypto.subtle
  const hashed: string[] = []
  crypto.subtle.digest = (algorithm, data) => {
    hashed.push(new TextDecoder().decode(data as Uint8Array<ArrayBuffer>))
    return digest.call(crypto.subtle, algorithm, data)
  }
  try {
    const check = operatorCheck(TOKEN)
    for (const guess of ['x', TOKEN.slice(0, -1), `${TOKEN.slice(0, -1)}x`]) {
      const headers = new Headers({ authorization: `Bearer ${guess}` })
      expect(await check(headers)).toBe(false)
      expect(hashed).toContain(guess)
    }
    expect(hashed).toContain(TOKEN)
  } finally {
    crypto.subtle.digest = digest
  }
})

test('isOperator() hashes nothing before a request has a bearer, and works again after a failure', async () => {
  const { digest } = crypto.subtle
  const failing = async () => {
    throw new Error('out of order')
  }
  try {
    crypto.subtle.digest = failing
    const check = operatorCheck(TOKEN)
    expect(await check(new Headers())).toBe(false)
    const headers = new Headers({ authorization: `Bearer ${TOKEN}` })
    await expect(check(headers)).rejects.toThrow('out of order')
    crypto.subtle.digest = digest
    expect(await check(headers)).toBe(true)
  } finally {
    crypto.subtle.digest = digest
  }
})
