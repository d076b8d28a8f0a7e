// The smallest Worker there is.
export default { fetch: () => new Response('ok') }
