// The owner's longer locked prompts: the same shape as [vars.CONFIG.prompts], without its 5 KB.
// Ids must not repeat those of CONFIG. `npm run check` and GET /health say what is wrong here.
import type { PromptSetting } from './settings.ts'

export const prompts: Readonly<Record<string, PromptSetting>> = {}
