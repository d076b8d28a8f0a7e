// Reads a list of requests from a file. The Worker validates the requests.

import type { Task } from '../operator/generate.ts'
import { decodeText } from '../operator/text.ts'

/** @throws Error if the file is not a list of requests */
export function parseList(file: Uint8Array): Task[] {
  const list = read(file)
  if (!Array.isArray(list)) throw new Error('Cannot read the list: expected a JSON array')
  return list.map((item: unknown, i) => {
    const request = requestOf(item)
    if (request === null)
      throw new Error(`Cannot use item ${i + 1}: expected a request body or a string`)
    return { name: nameOf(request, i), request }
  })
}

function read(file: Uint8Array): unknown {
  try {
    return JSON.parse(decodeText(file))
  } catch (error) {
    const reason = error instanceof SyntaxError ? 'invalid JSON' : (error as Error).message
    throw new Error(`Cannot read the list: ${reason}`)
  }
}

/** A string is a free prompt. */
function requestOf(item: unknown): Task['request'] | null {
  if (typeof item === 'string') return { prompt: item }
  return typeof item === 'object' && item !== null && !Array.isArray(item) ? { ...item } : null
}

/** The number in the list, from 1, and the beginning of the prompt or of the conversation. */
function nameOf(request: Task['request'], index: number): string {
  const prompt = JSON.stringify(request['prompt'] ?? request['messages']) ?? 'no prompt'
  return `#${index + 1} ${prompt.length > 60 ? `${prompt.slice(0, 59)}…` : prompt}`
}
