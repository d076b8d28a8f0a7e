// Asks an upstream whether it still has a model, and until when: `GET /models`, and for a model that
// the list does not name `GET /models/{id}`. A list that cannot be read, is empty or is one page of
// several says nothing about a model that it does not name.
import { deadline } from '../deadline.ts'
import { readBytes } from '../http/body.ts'
import { isRecord, parseJson, type Table } from '../json.ts'
import type { Target } from '../request/effective.ts'
import type { Wire } from './adapter.ts'
import { versionHeader } from './anthropic.ts'
import type { CallOptions, Send } from './call.ts'
import { diagnose } from './diagnosis.ts'
import { errorIn } from './failure.ts'

/** An upstream that has a list of models. */
export interface ModelList extends Pick<CallOptions, 'baseUrl' | 'headers'> {
  readonly wire: Wire
  readonly send: Send
}

/**
 * What an upstream's answers mean for one model. `missing`: its list does not name the model.
 * `refused`: it also states that there is no such model. `unsure`: nothing is known.
 */
export interface Sighting {
  readonly found: 'listed' | 'missing' | 'refused' | 'unsure'
  /** When the model ends, in unix ms; null if the upstream gives no date. */
  readonly endsAt: number | null
}

/** OpenRouter's list, the longest that is known, has less than one MiB. */
const LIST_BYTES = 4_194_304
const DEADLINE_MS = 10_000

/**
 * Workers AI and the demo model have no list. Azure's has models, but an upstream's model is the
 * name of a deployment there.
 */
export function hasList(wire: Wire, baseUrl: string): boolean {
  if (wire === 'workers-ai' || wire === 'demo') return false
  return !new URL(baseUrl).hostname.endsWith('.azure.com')
}

/** Reads the list. Null: there was no answer in time, or it is too long. Never throws. */
export async function readList(list: ModelList) {
  // Anthropic's pages have 20 models unless more are asked for.
  const answer = await get(list.wire === 'anthropic' ? '/models?limit=1000' : '/models', list)
  return answer && { ...answer, entries: answer.status === 200 ? entriesOf(answer.body) : [] }
}

/** Looks for the models of targets. Never throws. */
export async function lookFor<T extends Pick<Target, 'upstream_model'>>(
  targets: readonly T[],
  list: ModelList,
): Promise<(T & Sighting)[]> {
  if (targets.length === 0) return []
  const { entries = [], body } = (await readList(list)) ?? {}
  const isWhole = entries.length > 0 && !isPage(body, entries.length)
  const sighted: (T & Sighting)[] = []
  for (const target of targets) {
    const model = target.upstream_model
    const entry = entries.find((one) => isNamed(one, model))
    const other = isWhole && entry === undefined ? await lookUp(model, list) : unsure
    sighted.push({ ...target, ...(entry === undefined ? other : listed(entry)) })
  }
  return sighted
}

const listed = (entry: Table): Sighting => ({ found: 'listed', endsAt: endOf(entry) })
const unsure: Sighting = { found: 'unsure', endsAt: null }

/** Asks for one model: lists leave out names that the upstream accepts, such as aliases. */
async function lookUp(model: string, list: ModelList): Promise<Sighting> {
  // Names such as "openai/gpt-4" are two segments of the path.
  const path = encodeURIComponent(model).replaceAll('%2F', '/')
  const answer = await get(`/models/${path}`, list)
  if (answer === null) return unsure
  const { status, body } = answer
  const whole = isRecord(body) && isRecord(body['data']) ? body['data'] : body
  if (status === 200 && isRecord(whole) && typeof whole['id'] === 'string' && isActive(whole)) {
    return listed(whole)
  }
  const isRefused = status === 404 && diagnose(errorIn(body))?.subject === 'model'
  if (isRefused || status === 410) return { found: 'refused', endsAt: null }
  // Servers without this path answer 404, 405 or anything else.
  return [200, 404, 405].includes(status) ? { found: 'missing', endsAt: null } : unsure
}

/** Null: there was no answer in time, or it is too long. */
async function get(path: string, { baseUrl, headers, wire, send }: ModelList) {
  const read = async (signal: AbortSignal) => {
    const request = new Request(baseUrl + path, {
      headers: {
        accept: 'application/json',
        ...(wire === 'anthropic' ? versionHeader : {}),
        ...headers,
      },
      // Following a redirect would send some keys to another origin.
      redirect: 'manual',
      signal,
    })
    const { status, body } = await send(request)
    const bytes = await readBytes((body ?? new Blob([]).stream()).getReader(), LIST_BYTES)
    return bytes === null ? null : { status, body: parseJson(new TextDecoder().decode(bytes)) }
  }
  try {
    return await deadline(DEADLINE_MS, read, () => null)
  } catch {
    return null
  }
}

/** The active models of a list: `data`, `models`, or as in Together's API the whole body. */
function entriesOf(body: unknown): Table[] {
  const list = isRecord(body) ? (body['data'] ?? body['models']) : body
  if (!Array.isArray(list)) return []
  return list
    .map((entry: unknown) => (typeof entry === 'string' ? { id: entry } : entry))
    .filter((entry): entry is Table => isRecord(entry) && namesOf(entry).length > 0)
    .filter(isActive)
}

/** Groq also lists models that cannot be used. */
const isActive = ({ active }: Table) => active !== false

/** Whether a list is one page of several: `has_more`, `nextPageToken`, `links.next` and the like. */
function isPage(body: unknown, length: number): boolean {
  if (!isRecord(body)) return false
  const hasNext = (table: Table) =>
    Object.keys(table).some((key) => /^(has_more|next)/.test(key) && table[key])
  const { links, total, total_count = total } = body
  return hasNext(body) || (isRecord(links) && hasNext(links)) || Number(total_count) > length
}

export function namesOf({ id, name, aliases }: Table): string[] {
  return [id, name, ...(Array.isArray(aliases) ? aliases : [])].filter(
    (one): one is string => typeof one === 'string' && one !== '',
  )
}

function isNamed(entry: Table, model: string): boolean {
  const wanted = plain(model)
  return namesOf(entry).some((name) => {
    const given = plain(name)
    // LiteLLM lists "openai/*" if it passes on all models of a provider.
    return given.endsWith('*') ? wanted.startsWith(given.slice(0, -1)) : given === wanted
  })
}

/**
 * A name without what a list has and a request leaves out, or the reverse: Gemini's "models/",
 * Ollama's ":latest", and the routing suffixes of OpenRouter.
 */
function plain(name: string): string {
  return name
    .toLowerCase()
    .replace(/^models\//, '')
    .replace(/:(latest|online|nitro|floor|exacto)$/, '')
}

/** OpenAI's name, OpenRouter's, a likely one, and Mistral's and Azure's. */
const END_KEYS = ['shutdown_date', 'expiration_date', 'retirement_date', 'deprecation']

function endOf(entry: Table): number | null {
  for (const key of END_KEYS) {
    const value = entry[key]
    const at = timeOf(isRecord(value) ? value['inference'] : value)
    if (at !== null) return at
  }
  return null
}

/** From this number on, a time is in milliseconds. */
const MIN_MS = 100_000_000_000
const [YEAR_2020, YEAR_2100] = [1_577_836_800_000, 4_102_444_800_000]

/** A date, a date with a time, or unix seconds or milliseconds; null for anything else. */
function timeOf(value: unknown): number | null {
  if (typeof value !== 'string' && typeof value !== 'number') return null
  const text = String(value).trim()
  const count = /^\d+$/.test(text) ? Number(text) : null
  const date = /^\d{4}-\d\d-\d\d/.test(text) ? Date.parse(text) : Number.NaN
  const at = count === null ? date : count < MIN_MS ? count * 1000 : count
  return at >= YEAR_2020 && at < YEAR_2100 ? at : null
}
