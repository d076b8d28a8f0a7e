// Small faults of the protocol, as servers have them: each changes responses of the Worker.
import type { Mutation, Mutations } from './proxy.ts'

const inBody =
  (change: (body: string) => string): Mutation =>
  ({ headers, body }) => ({ headers, body: change(body) })

/** The events of a stream. A body of another type is left alone. */
const inEvents =
  (change: (events: string[]) => readonly string[]): Mutation =>
  ({ headers, body }) => {
    if (headers['content-type'] !== 'text/event-stream; charset=utf-8') return {}
    return { headers, body: change(body.split(/(?<=\n\n)/)).join('') }
  }

const withText = (event: string) => /"(text|content)":"[^"]/.test(event)
const withReason = (event: string) => /"finish_reason":"/.test(event)

export const mutations: Mutations = new Map<string, Mutation | null>([
  // The endpoint as it is.
  ['none', null],
  // A stream arrives when it is whole.
  ['held-back', () => ({})],
  [
    'text_offset-off-by-one',
    inBody((body) =>
      body.replaceAll(/"text_offset":\[([\d,]+)\]/g, (_, list: string) => {
        return `"text_offset":[${list.split(',').map((offset) => Number(offset) + 1)}]`
      }),
    ),
  ],
  [
    'token_logprobs-off-by-one',
    inBody((body) =>
      body.replaceAll(/"token_logprobs":\[([^\]]+)\]/g, (_, list: string) => {
        const [first, ...rest] = list.split(',')
        return `"token_logprobs":[${[...rest, first]}]`
      }),
    ),
  ],
  ['done-missing', inEvents((events) => events.filter((event) => !event.includes('[DONE]')))],
  [
    'usage-off-by-one',
    inBody((body) =>
      body.replaceAll(/"completion_tokens":(\d+)/g, (_, count: string) => {
        return `"completion_tokens":${Number(count) + 1}`
      }),
    ),
  ],
  [
    'chunk-dropped',
    inEvents((events) => {
      const dropped = events.findLastIndex(withText)
      return events.filter((_, i) => i !== dropped)
    }),
  ],
  [
    'finish-twice',
    inEvents((events) => events.flatMap((event) => (withReason(event) ? [event, event] : [event]))),
  ],
  [
    'errors-without-cors',
    ({ status, headers }) => {
      const { 'access-control-allow-origin': _, ...others } = headers
      return status < 400 ? {} : { headers: others }
    },
  ],
])
