// A conversation: the messages of a chat, in the form in which they are sent to an upstream. A chat of
// one message is a prompt, if nothing else tells them apart, so that both have one cache key.

/** A message of a chat. Only one of the assistant's may be empty. */
export interface Message {
  readonly role: 'system' | 'developer' | 'user' | 'assistant'
  readonly content: string
  /** Tells participants of the same role apart. */
  readonly name?: string
}

/** At least one message. The last one is the user's. */
export type Conversation = readonly Message[]

export type Tokens = readonly number[]

export type Prompt = string | Tokens | Conversation

export const isTokens = (prompt: readonly unknown[] | string): prompt is Tokens =>
  typeof prompt[0] === 'number'

export const isConversation = (prompt: unknown): prompt is Conversation =>
  Array.isArray(prompt) && typeof prompt[0] === 'object' && !Array.isArray(prompt[0])

/** The text of a prompt; "" for tokens, whose text is not known. */
export function textOf(prompt: Prompt): string {
  if (typeof prompt === 'string') return prompt
  return isTokens(prompt) ? '' : prompt.map(({ content }) => content).join('')
}

/** What the upstreams of a model do with conversations. */
export interface ChatOptions {
  /** The owner's system message for chats; null: visitors may send their own. */
  readonly system: string | null
  /** All of them are sent a prompt as a chat of one message; perhaps only if it has no system message. */
  readonly promptIsChat: 'yes' | 'no' | 'without_system'
  /** At least one has the role `developer`; the others know it as `system`. */
  readonly developer: boolean
  /** All of them take only turns of the user and the assistant in alternation (Anthropic). */
  readonly alternating: boolean
}

/** What is sent: the system message, and a prompt or a conversation. */
export interface SentChat {
  readonly system: string | null
  readonly prompt: string | Conversation
}

/**
 * The canonical form of a chat. Two chats have the same one if and only if the upstream is sent the
 * same.
 *
 * @param system the owner's system message, which comes first
 */
export function sentChat(
  messages: Conversation,
  system: string | null,
  { promptIsChat, developer, alternating }: ChatOptions,
): SentChat {
  const known = developer ? messages : messages.map(withoutDeveloper)
  const all: Conversation =
    system === null ? known : [{ role: 'system', content: system }, ...known]
  const { system: first, turns } = alternating ? alternate(all) : withoutSystem(all)
  const [only] = turns
  const maySend = promptIsChat === 'yes' || (promptIsChat === 'without_system' && first === null)
  const isPrompt = maySend && turns.length === 1 && only?.name === undefined
  return { system: first, prompt: isPrompt && only !== undefined ? only.content : turns }
}

/** Upstreams other than OpenAI's call the developer's message the system's. */
export function withoutDeveloper(message: Message): Message {
  return message.role === 'developer' ? { ...message, role: 'system' } : message
}

interface Turns {
  readonly system: string | null
  readonly turns: Conversation
}

/** Takes a system message from the beginning. */
function withoutSystem(messages: Conversation): Turns {
  const [first, ...rest] = messages
  if (first?.role !== 'system' || first.name !== undefined) return { system: null, turns: messages }
  return { system: first.content, turns: rest }
}

/** Stands in for a turn of the user's that is missing before the first answer. */
const NO_TEXT = '…'

/**
 * Turns of the user and the assistant in alternation, the user's first, as Anthropic's API requires.
 * All system messages become one, turns of one role are joined, blank messages are left out unless they
 * are the user's, and a name becomes a part of the text.
 */
export function alternate(messages: Conversation): Turns {
  const systems: string[] = []
  const turns: Message[] = []
  for (const { role, content, name } of messages) {
    // Blank texts are refused. A user's is never dropped.
    if (content === '' || (role !== 'user' && content.trim() === '')) continue
    const text = name === undefined ? content : `${name}: ${content}`
    if (role === 'system' || role === 'developer') {
      systems.push(text)
      continue
    }
    const last = turns.at(-1)
    if (last?.role === role)
      turns[turns.length - 1] = { role, content: `${last.content}\n\n${text}` }
    else {
      if (turns.length === 0 && role === 'assistant') turns.push({ role: 'user', content: NO_TEXT })
      turns.push({ role, content: text })
    }
  }
  return { system: systems.length === 0 ? null : systems.join('\n\n'), turns }
}
