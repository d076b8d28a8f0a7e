// The error messages of upstreams, each as its service phrases it, and what they are recognised as.
// None of the text may be repeated.
import { expect, test } from 'vitest'
import { diagnose, type Subject } from '../../src/upstream/diagnosis.ts'
import { cpuMs } from '../support/cpu.ts'

const error = (message: string, more: Readonly<Record<string, unknown>> = {}) => ({
  message,
  type: 'invalid_request_error',
  param: null,
  code: null,
  ...more,
})

type ErrorSample = readonly [service: string, error: unknown]

const said: Readonly<Record<Exclude<Subject, never>, readonly ErrorSample[]>> = {
  quota: [
    ['xAI', { error: "Your newly created team doesn't have any credits yet." }],
    [
      'OpenAI',
      error(
        'You exceeded your current quota, please check your plan and billing details. For more information on this error, read the docs.',
        { type: 'insufficient_quota', code: 'insufficient_quota' },
      ),
    ],
    [
      'OpenAI, hard limit',
      error('Billing hard limit has been reached', { code: 'billing_hard_limit_reached' }),
    ],
    [
      'OpenAI, account',
      error('Your account is not active, please check your billing details', {
        code: 'billing_not_active',
      }),
    ],
    [
      'Anthropic',
      error(
        'Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing.',
      ),
    ],
    [
      'Anthropic, limit',
      error(
        'You have reached your specified API usage limits. You will regain access on 2026-12-01 at 00:00 UTC.',
      ),
    ],
    [
      'Gemini, day',
      {
        code: 429,
        message:
          'You exceeded your current quota, please check your plan and billing details. Please retry in 12.3s.',
        status: 'RESOURCE_EXHAUSTED',
        details: [
          { violations: [{ quotaId: 'GenerateRequestsPerDayPerProjectPerModel-FreeTier' }] },
        ],
      },
    ],
    [
      'OpenRouter',
      {
        code: 402,
        message: 'Insufficient credits. Add more using https://openrouter.ai/settings/credits',
      },
    ],
    [
      'OpenRouter, share',
      {
        code: 402,
        message:
          'This request requires more credits, or fewer max_tokens. You requested up to 4096 tokens, but can only afford 1234.',
      },
    ],
    [
      'OpenRouter, free',
      {
        code: 429,
        message:
          'Rate limit exceeded: free-models-per-day. Add 10 credits to unlock 1000 free model requests per day',
      },
    ],
    ['DeepSeek', error('Insufficient Balance', { type: 'unknown_error' })],
    [
      'xAI',
      {
        code: 'Some resource has been exhausted',
        error:
          'Your team has either used all available credits or reached its monthly spending limit.',
      },
    ],
    [
      'Moonshot',
      error('Your account is suspended, please check your plan and billing details', {
        type: 'exceeded_current_quota_error',
      }),
    ],
    ['Hugging Face', 'You have exceeded your monthly included credits for Inference Providers.'],
    ['SiliconFlow', { code: 30001, message: 'Sorry, your account balance is insufficient' }],
    [
      'z.ai',
      { code: '1113', message: 'Insufficient balance or no resource package. Please recharge.' },
    ],
    ['Zhipu', { code: '1113', message: '您的账户已欠费，请充值后重试' }],
    [
      'DashScope',
      {
        code: 'Arrearage',
        message: 'Access denied, please make sure your account is in good standing.',
      },
    ],
    [
      'Volcano',
      {
        code: 'AccountOverdueError',
        message: 'The request failed because your account has an overdue balance.',
      },
    ],
    [
      'LiteLLM',
      error('Budget has been exceeded! Current cost: 1.2, Max budget: 1.0', {
        type: 'budget_exceeded',
        code: '400',
      }),
    ],
    ['LiteLLM, older', error('ExceededBudget: User x has exceeded their budget')],
    ['one-api', error('用户额度不足', { type: 'one_api_error', code: 'insufficient_user_quota' })],
    ['one-api, token', error('该令牌额度已用尽', { type: 'one_api_error' })],
    ['new-api', error('预扣费额度失败, 用户剩余额度: ＄0.01', { code: 'insufficient_user_quota' })],
    [
      'Fireworks',
      error(
        'Account x is suspended, possibly due to reaching the monthly spending limit or failure to pay past invoices',
      ),
    ],
    ['NVIDIA', { detail: 'Cloud credits expired - Please contact NVIDIA representatives' }],
    ['German', error('Ihr Guthaben ist aufgebraucht')],
    ['Japanese', error('残高が不足しています')],
    ['Spanish', error('Saldo insuficiente')],
    [
      'an aggregator that wraps',
      {
        error: { message: 'failed', metadata: { raw: '{"error":{"code":"insufficient_quota"}}' } },
      },
    ],
  ],
  key: [
    [
      'OpenAI',
      error('Incorrect API key provided: sk-proj-x. You can find your API key at …', {
        code: 'invalid_api_key',
      }),
    ],
    [
      'OpenAI, none',
      error(
        "You didn't provide an API key. You need to provide your API key in an Authorization header",
      ),
    ],
    ['Anthropic', error('invalid x-api-key', { type: 'authentication_error' })],
    [
      'Gemini',
      {
        code: 400,
        message: 'API key not valid. Please pass a valid API key.',
        status: 'INVALID_ARGUMENT',
        details: [{ reason: 'API_KEY_INVALID' }],
      },
    ],
    [
      'Gemini, expired',
      {
        code: 400,
        message: 'API key expired. Please renew the API key.',
        status: 'INVALID_ARGUMENT',
      },
    ],
    ['OpenRouter', { code: 401, message: 'No auth credentials found' }],
    ['OpenRouter, gone', { code: 401, message: 'User not found.' }],
    [
      'LiteLLM without a database',
      error('No connected db.', { type: 'no_db_connection', code: '400' }),
    ],
    [
      'LiteLLM',
      error(
        "Authentication Error, LiteLLM Virtual Key expected. Received=sk-x, expected to start with 'sk-'.",
        { type: 'auth_error', code: '401' },
      ),
    ],
    [
      'LiteLLM, proxy',
      error('Authentication Error, Invalid proxy server token passed. Received API Key = sk-x', {
        type: 'token_not_found_in_db',
      }),
    ],
    ['one-api', error('无效的令牌', { type: 'one_api_error' })],
    ['new-api', error('未提供令牌')],
    ['Zhipu', { code: '1000', message: '身份验证失败' }],
    ['DashScope', { code: 'InvalidApiKey', message: 'Invalid API-key provided.' }],
    ['AI Gateway', { code: 2009, message: 'Unauthorized' }],
    [
      'Azure',
      {
        code: '401',
        message:
          'Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key',
      },
    ],
    ['Fireworks', { faultstring: 'Invalid ApiKey', detail: { errorcode: 'oauth.InvalidApiKey' } }],
    ['llama.cpp', { code: 401, message: 'Invalid API Key', type: 'authentication_error' }],
    ['French', error("Clé d'API invalide")],
    ['Japanese', error('認証に失敗しました')],
  ],
  access: [
    [
      'OpenAI',
      error('Project `proj_x` does not have access to model `gpt-9`', { code: 'model_not_found' }),
    ],
    [
      'LiteLLM',
      error(
        "key not allowed to access model. This key can only access models=['a']. Tried to access b",
        { type: 'key_model_access_denied', code: '401' },
      ),
    ],
    ['new-api', error('该令牌无权访问模型 gpt-4o')],
    [
      'OpenAI, region',
      error('Country, region, or territory not supported', {
        code: 'unsupported_country_region_territory',
        type: 'request_forbidden',
      }),
    ],
    [
      'Gemini, region',
      {
        code: 400,
        message: 'User location is not supported for the API use.',
        status: 'FAILED_PRECONDITION',
      },
    ],
    ['Workers AI, terms', { code: 5016, message: 'User has not agreed to Llama3.2 model terms' }],
    ['Hugging Face', 'Access to model x is restricted: it is a gated model'],
  ],
  model: [
    [
      'LiteLLM, a name without its provider',
      error(
        'litellm.BadRequestError: LLM Provider NOT provided. Pass in the LLM provider you are trying to call. You passed model=m1',
        { code: '400' },
      ),
    ],
    ['Bedrock', { message: 'The provided model identifier is invalid.' }],
    ['LocalAI', error('could not load model - all backends returned error')],
    ['Ollama, a model for embeddings', { error: '"nomic-embed-text" does not support generate' }],
    [
      'OpenAI',
      error('The model `gpt-9` does not exist or you do not have access to it.', {
        code: 'model_not_found',
      }),
    ],
    ['Anthropic', error('model: claude-9', { type: 'not_found_error' })],
    [
      'Gemini',
      {
        code: 404,
        message:
          'models/gemini-9 is not found for API version v1main, or is not supported for generateContent.',
      },
    ],
    ['Mistral', error('Invalid model: mistral-9', { type: 'invalid_model' })],
    ['OpenRouter', { code: 400, message: 'foo/bar is not a valid model ID' }],
    ['OpenRouter, none', { code: 404, message: 'No endpoints found for foo/bar.' }],
    [
      'Groq',
      error('The model `x` has been decommissioned and is no longer supported.', {
        code: 'model_decommissioned',
      }),
    ],
    ['DeepSeek', error('Model Not Exist')],
    [
      'Together',
      error('Unable to access model x. Please visit https://api.together.ai/models', {
        code: 'model_not_available',
      }),
    ],
    [
      'Azure',
      {
        code: 'DeploymentNotFound',
        message: 'The API deployment for this resource does not exist.',
      },
    ],
    [
      'LiteLLM',
      error(
        "{'error': '/chat/completions: Invalid model name passed in model=foo. Call `/v1/models` to view available models for your key.'}",
        { code: '400' },
      ),
    ],
    [
      'LiteLLM, router',
      error('No deployments available for selected model, Try again in 5 seconds. Passed model=x'),
    ],
    [
      'one-api',
      error('当前分组 default 下对于模型 gpt-9 无可用渠道 (request id: 2025)', {
        type: 'one_api_error',
      }),
    ],
    [
      'new-api',
      error('No available channel for model gpt-9 under group default (distributor)', {
        type: 'new_api_error',
        code: 'model_not_found',
      }),
    ],
    [
      'vLLM',
      {
        object: 'error',
        message: 'The model `x` does not exist.',
        type: 'NotFoundError',
        code: 404,
      },
    ],
    ['Ollama', error("model 'x' not found", { type: 'api_error' })],
    ['Ollama, native', "model 'x' not found, try pulling it first"],
    [
      'LM Studio',
      error(
        'No models loaded. Please load a model in the developer page or use the `lms load` command.',
      ),
    ],
    ['LM Studio, unknown', error('Failed to load model "x". Error: Model not found')],
    ['Workers AI', { code: 5007, message: 'No such model @cf/x or task' }],
    ['Zhipu', { code: '1211', message: '模型不存在，请检查模型代码。' }],
    ['DashScope', { code: 'ModelNotFound', message: 'Model not exist.' }],
    ['French', error('Le modèle x est introuvable')],
  ],
  wire: [
    [
      'OpenAI, chat',
      error(
        'This is a chat model and not supported in the v1/completions endpoint. Did you mean to use v1/chat/completions?',
      ),
    ],
    [
      'OpenAI, legacy',
      error('This is not a chat model and thus not supported in the v1/chat/completions endpoint.'),
    ],
    [
      'OpenAI, responses',
      error('This model is only supported in v1/responses and not in v1/chat/completions.'),
    ],
    [
      'Azure',
      {
        code: 'OperationNotSupported',
        message: 'The completion operation does not work with the specified model, gpt-4.',
      },
    ],
    ['Ollama', error('"nomic-embed-text" does not support chat')],
    [
      'vLLM',
      error(
        'As of transformers v4.44, default chat template is no longer allowed, so you must provide a chat template',
      ),
    ],
  ],
  path: [
    ['LM Studio', 'Unexpected endpoint or method. (POST /v1/v1/chat/completions)'],
    ['OpenAI', error('Invalid URL (POST /v1/chat/completions/chat/completions)')],
    ['FastAPI', { detail: 'Not Found' }],
    ['Go', '404 page not found'],
    ['Cloudflare', { code: 7000, message: 'No route for that URI' }],
    [
      'AI Gateway',
      { code: 2001, message: 'Please configure AI Gateway in the Cloudflare dashboard' },
    ],
    ['Express', 'Cannot POST /completions'],
  ],
  context: [
    [
      'OpenAI',
      error(
        "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens. Please reduce the length of the messages.",
        { code: 'context_length_exceeded' },
      ),
    ],
    [
      'llama.cpp',
      {
        code: 400,
        message: 'the request exceeds the available context size, try increasing it',
        type: 'exceed_context_size_error',
        n_ctx: 4096,
      },
    ],
    ['llama.cpp, code alone', { code: 400, message: 'x', type: 'exceed_context_size_error' }],
    ['Anthropic', error('prompt is too long: 209000 tokens > 200000 maximum')],
    [
      'Anthropic, sum',
      error(
        'input length and `max_tokens` exceed context limit: 188240 + 21333 > 200000, decrease input length or `max_tokens` and try again',
      ),
    ],
    [
      'Gemini',
      {
        code: 400,
        message:
          'The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).',
      },
    ],
    [
      'Mistral',
      error(
        'Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length',
      ),
    ],
    [
      'TGI',
      {
        error:
          'Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 4000 `inputs` tokens and 200 `max_new_tokens`',
        error_type: 'validation',
      },
    ],
    [
      'Groq',
      error(
        'Request too large for model `x` on tokens per minute (TPM): Limit 6000, Requested 8000, please reduce your message size and try again',
        { code: 'rate_limit_exceeded' },
      ),
    ],
    [
      'LM Studio',
      'Trying to keep the first 5000 tokens when context the overflows. However, the model is loaded with context length of only 4096 tokens',
    ],
    ['Ollama', error('the input length exceeds the context length')],
    ['Bedrock', { message: 'Input is too long for requested model.' }],
    [
      'SGLang',
      { object: 'error', message: 'Prompt is too long', type: 'BadRequestError', code: 400 },
    ],
    [
      'Cohere',
      { message: 'too many tokens: total number of tokens in the prompt cannot exceed 4081' },
    ],
    [
      'DashScope',
      { code: 'InvalidParameter', message: 'Range of input length should be [1, 30720]' },
    ],
    ['Zhipu', { code: '1261', message: 'Prompt 超长' }],
  ],
  answer_length: [
    [
      'OpenAI',
      error('max_tokens is too large: 5000. This model supports at most 4096 completion tokens.', {
        param: 'max_tokens',
      }),
    ],
    [
      'Anthropic',
      error(
        'max_tokens: 10000 > 8192, which is the maximum allowed number of output tokens for claude-x',
      ),
    ],
    [
      'Groq',
      error(
        '`max_tokens` must be less than or equal to `8192`, the maximum value for `max_tokens` is less than the `context_window` for this model',
      ),
    ],
  ],
  policy: [
    [
      'OpenAI',
      error('Your request was rejected as a result of our safety system.', {
        code: 'content_policy_violation',
      }),
    ],
    [
      'OpenAI, reasoning',
      error('Invalid prompt: your prompt was flagged as potentially violating our usage policy.', {
        code: 'invalid_prompt',
      }),
    ],
    [
      'Azure',
      {
        message:
          "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.",
        code: 'content_filter',
        innererror: { code: 'ResponsibleAIPolicyViolation' },
      },
    ],
    [
      'OpenRouter',
      {
        code: 403,
        message: 'openai/x requires moderation on OpenAI. Your input was flagged for "violence".',
      },
    ],
    [
      'DashScope',
      { code: 'DataInspectionFailed', message: 'Input data may contain inappropriate content.' },
    ],
    ['Zhipu', { code: '1301', message: '系统检测到输入或生成内容可能包含不安全或敏感内容' }],
    ['one-api', error('user sensitive words detected', { code: 'sensitive_words_detected' })],
    ['AI Gateway', { code: 2016, message: 'Prompt blocked due to security configurations' }],
  ],
  field: [
    [
      'OpenAI',
      error(
        "Unsupported value: 'temperature' does not support 0.5 with this model. Only the default (1) value is supported.",
        { code: 'unsupported_value' },
      ),
    ],
    ['OpenAI, older', error('Unrecognized request argument supplied: foo')],
    [
      'Gemini',
      {
        code: 400,
        message: 'Invalid JSON payload received. Unknown name "seed": Cannot find field.',
      },
    ],
    [
      'Mistral',
      {
        message: {
          detail: [
            {
              type: 'extra_forbidden',
              loc: ['body', 'seed'],
              msg: 'Extra inputs are not permitted',
            },
          ],
        },
      },
    ],
    ['Groq', error("property 'logprobs' is unsupported")],
    [
      'TGI',
      {
        error: 'Suffix is not supported and can be achieved by preprocessing the prompt.',
        error_type: 'suffix not supported',
      },
    ],
    [
      'Ollama',
      error(
        'json: cannot unmarshal array into Go struct field CompletionRequest.prompt of type string',
      ),
    ],
  ],
  busy: [
    ['Anthropic', error('Overloaded', { type: 'overloaded_error' })],
    [
      'Gemini',
      {
        code: 503,
        message: 'The model is overloaded. Please try again later.',
        status: 'UNAVAILABLE',
      },
    ],
    ['Workers AI', { code: 3040, message: 'Capacity temporarily exceeded, please try again.' }],
    ['new-api', error('当前分组上游负载已饱和，请稍后再试', { code: 'get_channel_failed' })],
  ],
}

test.each(
  Object.entries(said).flatMap(([subject, cases]) =>
    cases.map(([service, what]) => [subject, service, what] as const),
  ),
)('diagnose() recognises %s in the message of %s', (subject, _, what) => {
  expect(diagnose(what)?.subject).toBe(subject)
})

test.each<[string, unknown]>([
  [
    'OpenAI, minute',
    error(
      'Rate limit reached for gpt-4 in organization org-x on tokens per min (TPM): Limit 10000, Used 9000, Requested 5000. Please try again in 6s.',
      { type: 'tokens', code: 'rate_limit_exceeded' },
    ),
  ],
  [
    'Azure',
    {
      code: '429',
      message:
        'Requests to the Creation API have exceeded token rate limit of your current AIServices S0 pricing tier. Please retry after 6 seconds. Please go here: https://aka.ms/oai/quotaincrease if you would like to further increase the default rate limit.',
    },
  ],
  [
    'Anthropic',
    error(
      "This request would exceed your organization's rate limit of 40,000 input tokens per minute.",
      { type: 'rate_limit_error' },
    ),
  ],
  ['Anthropic, short', error('Number of request tokens has exceeded your per-minute rate limit')],
  [
    'Gemini, minute',
    {
      code: 429,
      message:
        'You exceeded your current quota, please check your plan and billing details. Please retry in 26s.',
      status: 'RESOURCE_EXHAUSTED',
      details: [
        { violations: [{ quotaId: 'GenerateContentInputTokensPerModelPerMinute-FreeTier' }] },
        { retryDelay: '26s' },
      ],
    },
  ],
  [
    'Vertex',
    {
      code: 429,
      message: 'Resource exhausted. Please try again later.',
      status: 'RESOURCE_EXHAUSTED',
    },
  ],
  [
    'Groq',
    error(
      'Rate limit reached for model `x` on requests per minute (RPM): Limit 30, Used 30. Need more tokens? Upgrade to Dev Tier today at https://console.groq.com/settings/billing',
    ),
  ],
  ['Mistral', error('Requests rate limit exceeded')],
  ['DeepSeek', error('Rate limit reached, please pace your requests reasonably')],
])('diagnose() does not take the rate limit of %s for a quota', (_, what) => {
  expect(diagnose(what)?.subject).not.toBe('quota')
})

test.each<[string, unknown]>([
  ['nothing', null],
  ['no words', { error: {} }],
  ['an unknown message', error('something happened')],
  ['a page', '<html><title>API key invalid</title></html>'],
  [
    'an echo of the request',
    { message: 'value is not valid', input: 'insufficient_quota', ctx: { x: 'invalid_api_key' } },
  ],
  ['a number', 5],
])('diagnose() of %s is null', (_, what) => {
  expect(diagnose(what)).toBeNull()
})

test('diagnose() limits depth and length for hostile input', () => {
  let deep: unknown = 'insufficient_quota'
  for (let i = 0; i < 100_000; i++) deep = { error: deep }
  expect(diagnose(deep)).toBeNull()
  const words = [
    'model ',
    'exceeded your ',
    'api key ',
    'max_tokens ',
    '额度',
    'no ',
    'tokens ',
    'location ',
  ]
  for (const word of words) {
    const ms = cpuMs(() => diagnose({ message: word.repeat(200_000) }))
    expect(ms, word).toBeLessThan(200)
  }
})
