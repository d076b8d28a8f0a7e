// Questions and answers on a terminal.
import { createInterface } from 'node:readline/promises'
import { Writable } from 'node:stream'
import { visible } from '../operator/printable.ts'

export interface Terminal {
  /** Whether somebody can answer. */
  readonly isInteractive: boolean
  print(text: string): void
  /** @throws Interrupted if the input ends */
  ask(text: string, options?: { readonly hidden?: boolean }): Promise<string>
  /** All of the standard input. */
  readInput(): Promise<string>
}

export interface Streams {
  readonly input: NodeJS.ReadableStream & { readonly isTTY?: boolean }
  readonly output: NodeJS.WritableStream & { readonly isTTY?: boolean }
}

/** The reason of an interrupted question. */
export class Interrupted extends Error {}

export function terminalOn({ input, output }: Streams): Terminal {
  return {
    isInteractive: input.isTTY === true && output.isTTY === true,
    print: (text) => output.write(`${visible(text)}\n`),
    async ask(text, { hidden = false } = {}) {
      const question = visible(text)
      output.write(question)
      // Readline itself writes what is typed, which must not be seen of a key.
      const silent = new Writable({ write: (_chunk, _encoding, done) => done() })
      const lines = createInterface({ input, output: hidden ? silent : output, terminal: true })
      const ended = new AbortController()
      lines.on('close', () => ended.abort())
      lines.on('SIGINT', () => lines.close())
      try {
        // Written again by readline, in the same place, so that editing the line keeps it.
        return await lines.question(hidden ? '' : `\r${question}`, { signal: ended.signal })
      } catch {
        throw new Interrupted('Stopped: nothing more is written.')
      } finally {
        lines.close()
        if (hidden) output.write('\n')
      }
    },
    async readInput() {
      let text = ''
      for await (const chunk of input) text += String(chunk)
      return text
    },
  }
}
