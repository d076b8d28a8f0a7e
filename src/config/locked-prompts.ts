// The locked prompts of CONFIG and src/config/prompts.ts.
import { parseSelectors } from '../html/selector.ts'
import { isPassages, placeholdersIn } from '../request/template.ts'
import { masked, preview } from '../validation.ts'
import type { Faults } from './faults.ts'
import { checkParameters, type Model } from './models.ts'
import type { Settings } from './schema.ts'

type Prompts = Settings['prompts']
type LockedPrompt = Prompts[string]

/** @param tables the prompts of each source, with the beginning of their paths */
export function promptsOf(
  tables: readonly (readonly [prefix: string, prompts: Prompts])[],
  models: ReadonlyMap<string, Model>,
  origins: readonly string[],
  faults: Faults,
): Map<string, LockedPrompt> {
  const hasSite = origins.some((origin) => origin !== '*') || faults.hasRejected('origins')
  const prompts = new Map<string, LockedPrompt>()
  for (const [prefix, table] of tables) {
    for (const [id, prompt] of Object.entries(table)) {
      const own = faults.within(`${prefix}${masked(id)}`)
      if (prompts.has(id)) {
        own.add('', `Cannot use "${masked(id)}": CONFIG also has a prompt with this id`)
      }
      if (prompt.chat && models.has(id)) {
        own.add(
          '',
          `Cannot use "${masked(id)}": a model has this id, and chats name both as "model"`,
        )
      }
      if (prompt.model !== undefined) own.mustExist('model', prompt.model, models)
      const model = prompt.model === undefined ? [...models.values()][0] : models.get(prompt.model)
      if (prompt.chat && model?.takesChats === false) {
        own.add(
          'chat',
          `Cannot use "chat": the model "${masked(model.id)}" takes no chats, set chat_path in its upstream`,
        )
      }
      checkPlaceholders(prompt, own)
      checkPages(prompt, hasSite, own)
      checkPassages(prompt, own)
      checkParameters(prompt.parameters, own)
      prompts.set(id, prompt)
    }
  }
  return prompts
}

/** Every placeholder needs a variable, and every variable a placeholder. */
function checkPlaceholders(
  { system = '', text = '', chat, variables }: LockedPrompt,
  faults: Faults,
): void {
  if (faults.hasRejected('chat')) return
  const inText = placeholdersIn(text)
  // `{{message}}` is the visitor's last message.
  const hasMessage = chat && inText.delete('message')
  if (chat && text !== '' && !hasMessage) {
    faults.add('text', 'Cannot find "{{message}}": the visitor\'s message would be lost without it')
  }
  if (chat && Object.hasOwn(variables, 'message')) {
    faults.add(
      'variables.message',
      'Cannot use "message": remove it, {{message}} is always the visitor\'s last message',
    )
  }
  if (!chat && text === '') {
    faults.add('text', 'Cannot find "text": only a chat can do without it')
    return
  }
  const inSystem = placeholdersIn(system)
  for (const [field, places] of [
    ['text', inText],
    ['system', inSystem],
  ] as const) {
    for (const place of places) {
      if (Object.hasOwn(variables, place)) continue
      const remedy =
        chat && place === 'message' ? 'only "text" can contain it' : 'add it to "variables"'
      faults.add(field, `Cannot fill "{{${masked(place)}}}": ${remedy}`)
    }
  }
  for (const variable of Object.keys(variables)) {
    if (inText.has(variable) || inSystem.has(variable) || (chat && variable === 'message')) continue
    const name = masked(variable)
    faults.add(
      `variables.${name}`,
      `Cannot use "${name}": neither text nor system contains {{${name}}}`,
    )
  }
}

/** A variable from pages or the site needs an origin to read pages from; a page, a valid selector. */
function checkPages({ variables }: LockedPrompt, hasSite: boolean, faults: Faults): void {
  for (const [key, variable] of Object.entries(variables)) {
    if (!('from' in variable)) continue
    const name = masked(key)
    if (!hasSite) {
      faults.add(
        `variables.${name}`,
        `Cannot read pages for "${name}": add the origin of your site to "origins", such as "https://example.com" ("*" is not enough)`,
      )
    }
    if (variable.from === 'url')
      checkSelector(`variables.${name}.selector`, variable.selector, faults)
  }
}

/** A selector that is not understood would select nothing. */
export function checkSelector(path: string, selector: string, faults: Faults): void {
  if (parseSelectors(selector) !== null) return
  faults.add(
    path,
    `Cannot use ${preview(selector)}: expected CSS selectors of tags, classes, ids and attributes, such as "main, article"`,
  )
}

/** Passages need a question: a variable with the visitor's text, or the messages of a chat. */
function checkPassages({ chat, variables }: LockedPrompt, faults: Faults): void {
  const passages = Object.entries(variables).flatMap(([key, variable]) =>
    isPassages(variable) ? [[key, variable.about] as const] : [],
  )
  for (const [i, [key, about]] of passages.entries()) {
    const name = masked(key)
    const path = `variables.${name}`
    if (i > 0)
      faults.add(
        path,
        `Cannot use "${name}": a prompt can have only one variable with from = "site"`,
      )
    if (chat && about !== undefined && !faults.hasRejected('chat')) {
      faults.add(
        `${path}.about`,
        'Cannot use "about" in a chat: leave it out, the visitor\'s last two messages are the question',
      )
    } else if (!chat && about === undefined) {
      faults.add(`${path}.about`, 'Cannot find "about": expected the variable with the question')
    } else if (!chat && about !== undefined && !isQuestion(about, variables)) {
      const state = 'expected a variable with "max_chars" or "values"'
      faults.add(`${path}.about`, `Cannot use "${masked(about)}": ${state}`)
    }
  }
}

const isQuestion = (name: string, variables: LockedPrompt['variables']) =>
  Object.entries(variables).some(([key, variable]) => key === name && !('from' in variable))
