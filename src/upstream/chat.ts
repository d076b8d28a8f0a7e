// The chat wire: POST /chat/completions. A text prompt is one user message; the answer's message is
// the text. Fields that only the legacy wire has never get here (plan.ts sees to it).

import type { Upstream } from './adapter.ts'
import { failureOfResponse, wireFields } from './openai-request.ts'
import { readBody, readChunk } from './openai-response.ts'

export const chat: Upstream = {
  toWire(request, options) {
    const { logprobs, system } = request
    return {
      path: options.path ?? '/chat/completions',
      body: {
        model: request.model,
        messages: [
          ...(system === null ? [] : [{ role: 'system', content: system }]),
          ...request.prompts.map((content) => ({ role: 'user', content })),
        ],
        // `top_logprobs: 0` is the legacy `logprobs: 0`: the chosen token's alone.
        ...(logprobs === undefined ? {} : { logprobs: true, top_logprobs: logprobs }),
        ...wireFields(request, options),
      },
    }
  },
  fromBody: (body) => readBody(body, 'chat'),
  fromMessage: (message) => readChunk(message, 'chat'),
  fromFailure: failureOfResponse,
}
