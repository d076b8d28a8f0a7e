// The chat wire: POST /chat/completions. A text prompt is sent as one user message; the answer's
// message is its text. Requests with fields that only the completions wire has are refused before
// (calls.ts).
import type { Upstream } from './adapter.ts'
import { failureOfResponse } from './failure.ts'
import { messagesOf, wireFields } from './openai-request.ts'
import { readBody, readChunk } from './openai-response.ts'

export const chat: Upstream = {
  toWire(request, options) {
    const { model, logprobs } = request
    return {
      path: options.path ?? '/chat/completions',
      body: {
        model,
        messages: messagesOf(request, options),
        // `top_logprobs: 0` means the same as the legacy `logprobs: 0`: only the chosen tokens.
        ...(logprobs === undefined ? {} : { logprobs: true, top_logprobs: logprobs }),
        ...wireFields(request, options),
      },
    }
  },
  fromBody: (body) => readBody(body, 'chat'),
  fromMessage: (message) => readChunk(message, 'chat'),
  fromFailure: failureOfResponse,
}
