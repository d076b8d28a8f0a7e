// Finds out what an upstream's error is about from its codes and wording, since upstreams use the
// same status for a wrong key, an unknown model and an invalid request. The wording itself is not
// passed on or logged.
import type { Hint } from './hints.ts'

/**
 * What an error is about; hints.ts describes each. `quota`: the credit, quota or budget of the owner's
 * account is used up, and stays so for a while. `access`: the key is valid, but has no permission.
 * `wire`: the model needs another wire.
 */
export type Subject =
  | ('quota' | 'key' | 'access' | 'model' | 'wire' | 'path')
  | ('context' | 'answer_length' | 'policy' | 'field' | 'busy')

/** Errors that only the owner can fix. The visitor's request did not cause them. */
export const ownersSubjects = new Set<Subject>(['key', 'access', 'model', 'wire', 'path'])

/** Errors about one request. They do not mean that the next one fails, too. */
export const requestSubjects = new Set<Subject>(['context', 'answer_length', 'policy', 'field'])

/** Messages about limits per minute mention quotas, too, and so does the advice to request more. */
const SHORT_LIMIT =
  /per[ _-]?(second|minute)|(retry|try again) (in|after) \d|\b[RT]PM\b|requests? rate/i
const LONG_LIMIT = /per[ _-]?(day|week|month)|daily|monthly/i

/** The subjects of hints that are not named by one. */
const subjectOf: Readonly<Record<string, Subject>> = {
  terms: 'access',
  region: 'access',
  responsesOnly: 'wire',
  notChat: 'wire',
  chatOnly: 'wire',
}

/** The wording by hint. The first match counts, so more specific ones come first. */
const wording = {
  quota: [
    /insufficient[ _](\w+[ _])?(quota|balance|credit|fund)/i,
    /(balance|credit|quota|fund|allocation|budget|allowance)s? (is|are|was|has been|have been) (\w+ )?(insufficient|too low|exhausted|used up|depleted|exceeded|not enough)/i,
    /(exceeded|exhausted|used up|used all|reach(ed|ing)|out of)[\w' ]{0,40} (quota|credits?|balance|budget|allocation|allowance|(spend|spending|usage|billing) limits?)\b/i,
    /quota[ _](exceeded|exhausted|used up)|exceeded_(\w+_)?quota|over budget|exceeded ?budget|budget_exceeded/i,
    /(spend|spending|hard|usage|credit) limit (has been |was )?(reached|exceeded)/i,
    /billing_(hard_limit|not_active|error)|payment[ _]required|requires more credits|can only afford/i,
    /(n't|not) have any credits|past due|overdue|unpaid|arrear|please (recharge|top up)|credits? expired|free-models-per-day/i,
    // Messages of aggregators in other languages, such as one-api, Zhipu and DashScope.
    /额度(不足|已|耗尽|用[尽完])|余额不足|欠费|充值|配额(不足|已|超)/,
    /残高.{0,4}不足|利用上限|クォータ|잔액.{0,4}부족|할당량/,
    /guthaben|kontingent|solde insuffisant|crédits? (insuffisant|épuisé)|quota (dépassé|épuisé)/i,
    /saldo insuficiente|créditos? (insuficiente|agotado|esgotado)|(cuota|cota) (excedida|agotada|esgotada)|недостаточно средств|квот/i,
  ],
  access: [
    /model_access_denied|not allowed to access|can only access models?/i,
    /(not|n't) have access to (the |this )?model/i,
    /无权(使用|访问)|没有权限|权限不足/,
  ],
  terms: [/agreed? to .{0,60}terms|accept .{0,40}(terms|license)|\bgated\b/i],
  region: [
    /unsupported_country|(country|region|territory|location)[^.]{0,40}not (supported|available|allowed)/i,
    /not (available|supported) in your (country|region|location)|(地区|地域|国家).{0,10}(不支持|不可用|限制)/i,
  ],
  path: [
    /unexpected endpoint|invalid url|no route|cannot post|configure ai gateway|invalid provider/i,
    /(endpoint|route|path|page|url) (was |is )?not found|(endpoint|path|url) does not exist/i,
    /unknown (endpoint|path|url|request url)|^not found$|无效的(url|路径|接口)/im,
  ],
  responsesOnly: [/v1\/responses/i],
  notChat: [
    /not a chat model|chatcompletion operation does not work|does not support chat|chat template/i,
  ],
  chatOnly: [
    /is a chat model|v1\/chat\/completions|completion operation does not work|does not support completion/i,
  ],
  model: [
    /model[ _]?(not[ _]?(found|exist|available|supported|loaded)|decommissioned|deprecated)/i,
    /(invalid|unknown|unrecognized|unsupported|no such) model\b|not a valid model|^model: \S+$/im,
    /model[^.;]{0,120}(does ?n[o']t exist|not found|not be found|not available|no longer (available|supported))/i,
    /model[^.;]{0,120}(been|was|is) (deprecated|decommissioned|retired|removed|shut ?down|discontinued)/i,
    // `transformers serve MODEL`.
    /server is pinned to/i,
    /no models? (is |are )?(currently )?loaded|(failed to|could not) load model|try pulling it/i,
    // LiteLLM without a provider before the name, Bedrock, Ollama's embedding models.
    /llm provider not provided|model (identifier|id|name) is (invalid|not valid)|not support generate/i,
    /no (endpoints?|allowed providers|available channels?|healthy deployments?|deployments?) (found|available|for|are)/i,
    /deployment ?not ?found|deployment for this resource does not exist|not found for api version/i,
    // one-api and its forks: no channel of this group has the model.
    /(无|没有)可用的?渠道|模型.{0,20}(不存在|未找到|已下线|不可用)|(不支持|未找到|找不到|无效)(的|该|此)?模型/,
    /モデル.{0,20}(見つかりません|存在しません)|모델.{0,20}(찾을 수 없|존재하지)/,
    /mod(è|e)le? .{0,60}(introuvable|n'existe pas|no existe|não existe|nicht gefunden)|modell .{0,60}nicht/i,
  ],
  policy: [
    /content[ _]?(management[ _])?(policy|filter)|responsibleaipolicy|policy[ _]violation/i,
    /flagged|moderat(ion|ed)|(usage|safety|acceptable use) polic|safety (system|setting|filter)/i,
    /data[ _]?inspection|guardrail|blocked due to (security|safety|content)|inappropriate|sensitive_words/i,
    /敏感|违规|不安全|内容安全|审核/,
  ],
  answer_length: [
    /max_(completion_|output_)?tokens[^.]{0,80}(too (large|high|big)|at most|less than|greater than|maximum)/i,
    /max_(completion_|output_)?tokens: \d+ >|integer_above_max_value/i,
  ],
  context: [
    /context[ _](length|window|size|limit)|exceed_context|maximum context|\bn_ctx\b|max_model_len/i,
    /(prompt|input|request|message|text)s? (is |are |was )?too (long|large)|too large for model/i,
    /too many (input |prompt |total )?tokens|input (token count|length)|total number of tokens/i,
    /(tokens?|length)[^.]{0,60}exceeds?[^.]{0,60}(maximum|limit|context)|range of input length/i,
    /reduce (the length|your (prompt|message|input|request))|max_new_tokens`? must be|string_above_max_length/i,
    /上下文|超长|过长|超[过出].{0,16}(长度|token|上限)|トークン.{0,12}(超|上限)|컨텍스트/i,
  ],
  key: [
    // LiteLLM without a database accepts only its master key.
    /no_db_connection|no connected db|virtual key expected|invalid_(api_)?key|api_key_invalid|invalidapikey/i,
    /api[ _-]?key[^.]{0,40}(not valid|invalid|incorrect|missing|expired|not found|revoked|disabled|required|not provided)/i,
    /(invalid|incorrect|missing|no|wrong|expired|malformed|unknown|provide|without)[\w ]{0,20} (api[ _-]?key|x-api-key|subscription key|(auth\w*|access|bearer|server) token|credentials?|authorization|authentication)/i,
    /auth(entication|orization)?[ _](error|failed|required|fails)|unauthorized|unauthenticated|unregistered callers|user not found/i,
    /令牌|密钥|身份验证|认证失败|鉴权|未授权|api ?key ?(无效|错误|不存在)|認証|apiキー|인증/i,
    /api[ -]?schl(ü|ue)ssel|clé (d['’])?api|clave (de )?(la )?api|chave (de |da )?api|ключ/i,
  ],
  field: [
    /unsupported[ _](parameter|value|field)|not (supported|permitted)|is unsupported|does not support/i,
    /unrecognized|unknown (parameter|field|name|argument)|extra[ _](input|field|forbidden)|cannot find field/i,
    /deprecated|cannot unmarshal|^field '\w+': value must/im,
  ],
  busy: [
    /overload|too busy|at capacity|out of capacity|capacity (temporarily )?exceeded|temporarily unavailable/i,
    /负载|饱和|繁忙|稍后再试|混み合|혼잡/,
  ],
} as const satisfies Partial<Record<Hint, readonly RegExp[]>>

/** What an error is about, and what the owner should change; null if no wording is known. */
export function diagnose(error: unknown): { subject: Subject; hint: string } | null {
  const text = wordsOf(error)
  const mayBeQuota = LONG_LIMIT.test(text) || !SHORT_LIMIT.test(text)
  for (const [name, words] of Object.entries(wording)) {
    if ((name !== 'quota' || mayBeQuota) && words.some((word) => word.test(text))) {
      return { subject: subjectOf[name] ?? (name as Subject), hint: name }
    }
  }
  return null
}

/** Whether a body is an HTML page. */
export function isPage(body: unknown): boolean {
  return typeof body === 'string' && body.trimStart().startsWith('<')
}

/** The keys of codes and explanations. Under other keys servers repeat parts of the request. */
const explained =
  /^(code|type|status|reason|message|msg|err|error|errors|error_?(msg|message|type|code|description)|detail|details|description|title|fault|faultstring|errorcode|internalcode|innererror|metadata|raw|response|header|violations|quotaid|param|loc)$/i

const MAX_DEPTH = 8
const MAX_CHARS = 4096
/** How many entries of an object or list are read. */
const MAX_ENTRIES = 32

/** The codes and explanations of an error, one per line. Only for matching, never for output. */
export function wordsOf(error: unknown): string {
  return wordsIn(error, 0).join('\n').slice(0, MAX_CHARS)
}

function wordsIn(value: unknown, depth: number): string[] {
  if (typeof value === 'string') return isPage(value) ? [] : [value.slice(0, MAX_CHARS)]
  if (typeof value === 'number') return [String(value)]
  if (typeof value !== 'object' || value === null || depth === MAX_DEPTH) return []
  return Object.entries(value)
    .slice(0, MAX_ENTRIES)
    .filter(([key]) => Array.isArray(value) || explained.test(key))
    .flatMap(([, inner]) => wordsIn(inner, depth + 1))
}
