// The answer of the hit floors, stored by a PUT.
export let answer = null
export let type = ''

export async function take(request) {
  answer = await request.bytes()
  type = request.headers.get('content-type')
  return new Response()
}
