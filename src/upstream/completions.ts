// The legacy completions wire: POST /completions, one text per choice. Chats go to the upstream's path
// for them, if it has one.
import { isConversation } from '../request/conversation.ts'
import type { Upstream } from './adapter.ts'
import { chat } from './chat.ts'
import { failureOfResponse } from './failure.ts'
import { present, wireFields } from './openai-request.ts'
import { readBody, readChunk } from './openai-response.ts'

export const completions: Upstream = {
  toWire(request, options) {
    if (request.prompts.some(isConversation)) {
      return chat.toWire(request, { ...options, path: options.chatPath ?? null })
    }
    const prompts = request.prompts.map((prompt) =>
      typeof prompt === 'string' && request.locked && request.system !== null
        ? `${request.system}\n\n${prompt}`
        : prompt,
    )
    const { model, best_of, echo, suffix, logprobs } = request
    return {
      path: options.path ?? '/completions',
      body: {
        model,
        prompt: prompts.length === 1 ? prompts[0] : prompts,
        ...present({ best_of, echo, suffix, logprobs }),
        ...wireFields(request, options),
      },
    }
  },
  fromBody: (body) => readBody(body, 'text'),
  fromMessage: (message) => readChunk(message, 'text'),
  fromFailure: failureOfResponse,
}
