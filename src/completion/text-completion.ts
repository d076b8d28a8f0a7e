// Chunks of text completions: every chunk has the same shape as the whole object.
import { toJson } from '../json.ts'
import type { Logprobs } from './completion.ts'
import type { Encode } from './encode.ts'

export function chunkEncoder(includeUsage: boolean): Encode {
  // The parts that are the same in every chunk, as JSON.
  let start = ''
  const end = includeUsage ? '}],"usage":null}\n\n' : '}]}\n\n'
  const chunk = (text: string, index: number, logprobs: Logprobs | null, finish: string) =>
    `${start},"choices":[{"text":${toJson(text)},"index":${index},"logprobs":${toJson(logprobs)},"finish_reason":${finish}${end}`
  return (delta) => {
    switch (delta.kind) {
      case 'head': {
        const { id, created, model, system_fingerprint } = delta.head
        const head = { id, object: 'text_completion', created, model, system_fingerprint }
        start = `data: ${toJson(head).slice(0, -1)}`
        return ''
      }
      case 'text':
        return chunk(delta.text, delta.index, delta.logprobs, 'null')
      case 'finish':
        return chunk('', delta.index, null, `"${delta.reason}"`)
      case 'usage':
        return includeUsage ? `${start},"choices":[],"usage":${toJson(delta.usage)}}\n\n` : ''
      default:
        return delta satisfies never
    }
  }
}
