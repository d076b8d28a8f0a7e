// A site and an upstream as one script of the app in process: the site's pages change and fail as a
// test says, the upstream answers with what it was asked, so that another page is another answer.
import {
  compatible,
  OPERATOR_TOKEN,
  ORIGIN,
  type Reply,
  type Script,
  TestApp,
  type TestAppOptions,
} from './app.ts'

/** What the site does with a request for this path. */
export type Serve = (request: Request) => Response | Promise<Response>

export class Site {
  /** By path. */
  readonly pages = new Map<string, Serve>()
  /** Requests for pages, in order. */
  readonly fetches: Request[] = []
  /** What the upstream was asked. */
  readonly asked: { readonly system: string | null; readonly prompt: string }[] = []
  /** What the upstream does instead of answering. */
  upstream: (() => Response) | null = null

  /** A page of this text; with a version it can say that it has not changed. */
  put(path: string, text: string, version: string | null = null): void {
    this.pages.set(path, (request) => {
      const etag = version === null ? null : `"${version}"`
      if (etag !== null && request.headers.get('if-none-match') === etag) {
        return new Response(null, { status: 304 })
      }
      return html(`<main>${text}</main>`, etag === null ? {} : { etag })
    })
  }

  readonly script: Script = async (request) => {
    const { origin, pathname } = new URL(request.url)
    if (origin === ORIGIN || !request.url.startsWith('https://upstream.test/')) {
      this.fetches.push(request)
      const serve = this.pages.get(origin === ORIGIN ? pathname : request.url)
      return serve === undefined ? new Response('no', { status: 404 }) : await serve(request)
    }
    const { messages } = (await request.json()) as {
      messages: { role: string; content: string }[]
    }
    const said = (role: string) => messages.find((message) => message.role === role)?.content
    this.asked.push({ system: said('system') ?? null, prompt: said('user') ?? '' })
    return this.upstream?.() ?? chatAnswer(`answer ${this.asked.length}`)
  }
}

export const URL_A = `${ORIGIN}/posts/a`
export const OPERATOR = { authorization: `Bearer ${OPERATOR_TOKEN}` }

export interface PagesSetup extends Omit<TestAppOptions, 'config' | 'upstream'> {
  readonly site?: Site
  /** Laid over the page variable of the prompt `summary`, and over that prompt. */
  readonly variable?: object
  readonly prompt?: object
  readonly config?: object
}

/** An app with a prompt `summary` of a page, and a site that has one at `URL_A`. */
export function startWithPages(setup: PagesSetup = {}) {
  const { site = new Site(), variable = {}, prompt = {}, config = {}, ...app } = setup
  const page = { from: 'url', paths: ['/posts/*'], page_seconds: 3600, ...variable }
  const started = new TestApp({
    ...app,
    upstream: site.script,
    config: {
      upstreams: [{ ...compatible, wire: 'chat', stream: 'visitor', retries: 0 }],
      prompts: {
        summary: { text: 'Summarise: {{page}}', variables: { page }, ...prompt },
      },
      ...config,
    },
  })
  if (!site.pages.has('/posts/a')) site.put('/posts/a', 'The first text.', 'v1')
  return { app: started, site }
}

export const askAbout = (url: string) => ({ prompt: { id: 'summary', variables: { page: url } } })
export const queryAbout = (url: string) => `prompt_id=summary&var.page=${encodeURIComponent(url)}`

export const textOf = (reply: Reply) =>
  (reply.json() as { choices: { text: string }[] }).choices[0]?.text ?? ''

export function codeOf(reply: Reply) {
  const { error } = reply.json() as { error: { code: string; param: string; message: string } }
  return [reply.status, error.code, error.param]
}

export function html(body: string, headers: Record<string, string> = {}): Response {
  return new Response(body, { headers: { 'content-type': 'text/html; charset=utf-8', ...headers } })
}

export function chatAnswer(content: string, finish_reason = 'stop'): Response {
  return Response.json({
    id: 'chatcmpl-1',
    object: 'chat.completion',
    created: 1,
    model: 'model-1-0001',
    choices: [{ index: 0, message: { role: 'assistant', content }, finish_reason }],
    usage: { prompt_tokens: 3, completion_tokens: 4, total_tokens: 7 },
  })
}
