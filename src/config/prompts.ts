// Locked prompts that are too long for CONFIG, which is limited to 5 KB. Same format as
// [vars.CONFIG.prompts]; an id must not be used in both. `npm run check` and GET /health list
// errors.
import type { PromptSetting } from './schema.ts'

export const prompts: Readonly<Record<string, PromptSetting>> = {}
