// Error messages of OpenAI-compatible servers and the hints for the owner.
import fc from 'fast-check'
import { expect, test } from 'vitest'
import type { UpstreamCause } from '../../src/upstream/failure.ts'
import { failureOfResponse } from '../../src/upstream/openai-request.ts'

function causeOf(status: number, body: unknown): Partial<UpstreamCause> {
  return failureOfResponse(status, body).cause as UpstreamCause
}

const errorBody = (message: string, more = {}) => ({
  error: { message, param: null, code: null, ...more },
})

test.each<[string, number, unknown]>([
  [
    'OpenAI and Azure',
    400,
    errorBody(
      "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
      { param: 'max_tokens', code: 'unsupported_parameter' },
    ),
  ],
  ['a gateway', 400, errorBody('max_tokens is deprecated, use max_completion_tokens instead')],
  ['a terse one', 400, { error: "Unknown parameter: 'max_tokens'." }],
  [
    'a server of pydantic',
    422,
    {
      detail: [
        {
          type: 'extra_forbidden',
          loc: ['body', 'max_tokens'],
          msg: 'Extra inputs are not permitted',
        },
      ],
    },
  ],
])('failureOfResponse() recognises that %s expects max_completion_tokens', (_, status, body) => {
  expect(causeOf(status, body)).toMatchObject({
    wantsField: 'max_completion_tokens',
    hint: expect.stringContaining('max_tokens_field = "max_completion_tokens"'),
  })
  expect(failureOfResponse(status, body).code).toBe('upstream_refused_request')
})

test.each<[string, number, unknown]>([
  [
    'an older OpenAI',
    400,
    errorBody('Unrecognized request argument supplied: max_completion_tokens'),
  ],
  [
    'Gemini',
    400,
    [
      errorBody(
        'Invalid JSON payload received. Unknown name "max_completion_tokens": Cannot find field.',
        { code: 400, status: 'INVALID_ARGUMENT' },
      ),
    ],
  ],
  [
    'Mistral',
    422,
    {
      object: 'error',
      message: {
        detail: [
          {
            type: 'extra_forbidden',
            loc: ['body', 'max_completion_tokens'],
            msg: 'Extra inputs are not permitted',
            input: 9,
          },
        ],
      },
    },
  ],
  ['Groq', 400, errorBody("property 'max_completion_tokens' is unsupported")],
])('failureOfResponse() recognises that %s expects max_tokens', (_, status, body) => {
  expect(causeOf(status, body)).toMatchObject({
    wantsField: 'max_tokens',
    hint: expect.stringContaining('max_tokens_field = "max_tokens"'),
  })
})

test.each<[string, number, unknown]>([
  [
    'a value that is too large',
    400,
    errorBody(
      'max_tokens is too large: 5000. This model supports at most 4096 completion tokens.',
      {
        param: 'max_tokens',
      },
    ),
  ],
  [
    'a value that is too small',
    400,
    errorBody("Invalid 'max_completion_tokens': integer below minimum value.", {
      param: 'max_completion_tokens',
      code: 'integer_below_min_value',
    }),
  ],
  ['a context that is too long', 400, errorBody('You requested 9 max_tokens; please reduce it')],
  ['another field', 400, errorBody("Unsupported parameter: 'temperature' is not supported")],
  ['another status', 500, errorBody("Unsupported parameter: 'max_tokens'")],
  ['a missing page', 404, errorBody("Unknown parameter: 'max_tokens'")],
  ['nothing', 400, null],
  ['a text', 400, 'max_tokens'],
])('failureOfResponse() of %s suggests no other field', (_, status, body) => {
  expect(causeOf(status, body)).not.toHaveProperty('wantsField')
})

const CHAT = 'wire = "chat"'
const LEGACY = 'wire = "completions"'

test.each<[string, string]>([
  [
    'This is a chat model and not supported in the v1/completions endpoint. Did you mean to use v1/chat/completions?',
    CHAT,
  ],
  [
    'This is not a chat model and thus not supported in the v1/chat/completions endpoint. Did you mean to use v1/completions?',
    LEGACY,
  ],
  ['The completion operation does not work with the specified model, gpt-4.', CHAT],
  [
    'The chatCompletion operation does not work with the specified model, gpt-35-turbo-instruct.',
    LEGACY,
  ],
  ['"nomic" does not support chat', LEGACY],
  ['"x" does not support completion', CHAT],
  [
    'As of transformers v4.44, default chat template is no longer allowed, so you must provide a chat template',
    LEGACY,
  ],
  [
    'This model is only supported in v1/responses and not in v1/chat/completions.',
    'upstream_model',
  ],
])('failureOfResponse() of "%s" suggests %s', (message, hint) => {
  for (const status of [400, 404]) {
    for (const body of [errorBody(message), { error: message }, { message }]) {
      expect(causeOf(status, body).hint).toContain(hint)
    }
  }
})

test('failureOfResponse() repeats no upstream text in its hint', () => {
  const words = 'max_tokens max_completion_tokens chat model unsupported not a use instead'.split(
    ' ',
  )
  const message = fc
    .array(fc.oneof(fc.constantFrom(...words), fc.string({ minLength: 8 })), { maxLength: 12 })
    .map((parts) => parts.join(' '))
  const hints = new Set<string | null | undefined>()
  fc.assert(
    fc.property(message, fc.constantFrom(400, 401, 404, 422), (text, status) => {
      hints.add(causeOf(status, errorBody(text)).hint)
    }),
  )
  // As many as the code has, for any input.
  expect(hints.size).toBeGreaterThan(1)
  expect(hints.size).toBeLessThanOrEqual(8)
})
