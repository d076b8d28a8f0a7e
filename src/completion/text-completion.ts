// Chunks of text completions: every chunk has the same shape as the whole object.
import { toJson } from '../json.ts'
import { ChunkWriter } from './chunks.ts'
import type { Logprobs } from './completion.ts'
import type { Encode } from './encode.ts'

export function chunkEncoder(includeUsage: boolean): Encode {
  const writer = new ChunkWriter('text_completion', includeUsage)
  const chunk = (text: string, index: number, logprobs: Logprobs | null, finish: string) =>
    writer.choice(
      `{"text":${toJson(text)},"index":${index},"logprobs":${toJson(logprobs)},"finish_reason":${finish}}`,
    )
  return (delta) => {
    switch (delta.kind) {
      case 'head':
        return writer.head(delta.head)
      case 'text':
        return chunk(delta.text, delta.index, delta.logprobs, 'null')
      case 'finish':
        return chunk('', delta.index, null, `"${delta.reason}"`)
      case 'usage':
        return writer.usage(delta.usage)
      default:
        return delta satisfies never
    }
  }
}
