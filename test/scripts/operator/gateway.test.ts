// Gateway.check(): what it accepts as a Worker, and when it sends the operator's token.
import { expect, test } from 'vitest'
import { Gateway } from '../../../scripts/operator/gateway.ts'

/** Checks a server that gives these answers. */
function check(...answers: readonly Response[]) {
  const rest = [...answers]
  const tokens: (string | null)[] = []
  const gateway = new Gateway(
    { url: 'https://edge.test', token: 't', verb: 'index' },
    async (request) => {
      tokens.push(request.headers.get('authorization'))
      return rest.shift() ?? Response.error()
    },
  )
  return { checked: gateway.check(), tokens }
}

const well = () => Response.json({ status: 'ok' })

test('a Worker that knows the token is accepted', async () => {
  const { checked, tokens } = check(well(), Response.json({ now: 1 }))
  await checked
  expect(tokens).toEqual([null, 'Bearer t'])
})

test.each([
  ['a page', () => new Response('<html>'), 'answered 200, not from'],
  ['a list', () => Response.json([]), 'answered 200, not from'],
  ['a redirect', () => new Response(null, { status: 302 }), 'answered 302, not from'],
])('%s in place of /health is refused, without sending the token', async (_, answer, reason) => {
  const { checked, tokens } = check(answer())
  await expect(checked).rejects.toThrow(`Cannot index: https://edge.test ${reason}`)
  expect(tokens).toEqual([null])
})

test('the faults of a misconfigured Worker are listed', async () => {
  const faults = [
    { path: 'origins', message: 'Cannot use "x"' },
    { path: 'site.paths', message: 'Missing\n\x1b[31mred' },
  ]
  const { checked } = check(Response.json({ status: 'misconfigured', faults }, { status: 503 }))
  await expect(checked).rejects.toThrow(
    'Cannot index: https://edge.test is misconfigured:\norigins: Cannot use "x"\nsite.paths: Missing [31mred',
  )
})

test('another server with a /health, and a wrong token, are refused', async () => {
  const other = check(well(), new Response('<html>', { status: 404 }))
  await expect(other.checked).rejects.toThrow('https://edge.test answered 404, not from')
  const error = { code: 'operator_token_invalid', message: 'Cannot' }
  const wrong = check(well(), Response.json({ error }, { status: 401 }))
  await expect(wrong.checked).rejects.toThrow('Cannot index: OPERATOR_TOKEN does not match')
})
