// Asks the locked prompt: as a prompt with a variable, or as a conversation.
import { citesIn } from '../../cites.js'
import { list } from './search.js'

/** @import { Message } from '../../client.d.ts' */
/** @import { EdgeElement } from '../element.js' */

export class Questions {
  #host
  /** The prompts of this endpoint that take conversations. @type {Promise<string[]> | null} */
  #chats = null
  #endpoint = ''
  /** The header of the answer's first response that has one. @type {string | null} */
  #link = null

  /** @param {EdgeElement} host */
  constructor(host) {
    this.#host = host
  }

  get #prompt() {
    return this.#host.read('prompt', 'ask')
  }

  /** The passages of the answer whose text has begun. */
  get cites() {
    return citesIn(this.#link)
  }

  /** Whether the prompt takes a conversation. */
  async isChat() {
    const { endpoint } = this.#host
    if (endpoint !== this.#endpoint) this.#chats = null
    this.#endpoint = endpoint
    this.#chats ??= this.#listChats()
    this.#chats.catch(() => {
      this.#chats = null
    })
    return (await this.#chats).includes(this.#prompt)
  }

  /** Locked prompts that take conversations are in the list of models. */
  async #listChats() {
    /** @type {{ id: string, owned_by: string }[]} */
    const models = await list(this.#host.endpoint, '/v1/models')
    return models.filter(({ owned_by }) => owned_by === 'owner').map(({ id }) => id)
  }

  /** The text of the answer, as it arrives. @param {readonly Message[]} messages @param {AbortSignal} signal */
  async answer(messages, signal) {
    const { stream, chat } = await this.#host.client({
      fetch: async (input, init) => {
        const response = await fetch(input, init)
        // Later responses (a resumed stream, a token's renewal) do not replace it.
        this.#link ??= response.headers.get('link')
        return response
      },
    })
    this.#link = null
    const model = this.#prompt
    const variables = this.#host.json('variables') ?? {}
    if (await this.isChat()) return chat(messages, { model, variables, signal, stream: true })
    const question = `${messages.at(-1)?.content}`
    const own = { [this.#host.read('variable', 'question')]: question }
    return stream({ id: model, variables: { ...variables, ...own } }, { signal })
  }
}
