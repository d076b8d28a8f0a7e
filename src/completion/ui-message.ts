// The UI message stream of the AI SDK (ai-sdk.dev/docs/ai-sdk-ui/stream-protocol): a message of one text
// part, which is choice 0.
import { toJson } from '../json.ts'
import type { Encode } from './encode.ts'

const event = (part: object) => `data: ${toJson(part)}\n\n`

const BEGIN = [{ type: 'start' }, { type: 'start-step' }, { type: 'text-start', id: '0' }]
  .map(event)
  .join('')
const END = [{ type: 'text-end', id: '0' }, { type: 'finish-step' }].map(event).join('')

export function uiMessageEncoder(): Encode {
  return (delta) => {
    switch (delta.kind) {
      case 'head':
        return BEGIN
      case 'text':
        return delta.index === 0 ? event({ type: 'text-delta', id: '0', delta: delta.text }) : ''
      case 'finish':
        return delta.index === 0
          ? END + event({ type: 'finish', finishReason: delta.reason.replace('_', '-') })
          : ''
      case 'usage':
        return ''
      default:
        return delta satisfies never
    }
  }
}
