// A site and an upstream in one script for the app in process. Tests change or break the site's
// pages; the upstream's answers are numbered, so that a different page shows as another answer.

import { compatible, type Reply, type Script, TestApp, type TestAppOptions } from './app.ts'
import { OPERATOR_TOKEN, ORIGIN } from './client.ts'

/** Responds to a request for one page. */
type PageHandler = (request: Request) => Response | Promise<Response>

class Site {
  /** Handlers by path. */
  readonly pages = new Map<string, PageHandler>()
  /** Requests for pages, in order. */
  readonly fetches: Request[] = []
  /** The messages of each upstream call. */
  readonly prompts: { readonly system: string | null; readonly prompt: string }[] = []
  /** Replaces the upstream's answer. */
  upstream: (() => Response) | null = null

  /** Serves a page with this text. With a version, it has an ETag and supports revalidation. */
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
    const contentOf = (role: string) => messages.find((message) => message.role === role)?.content
    this.prompts.push({ system: contentOf('system') ?? null, prompt: contentOf('user') ?? '' })
    return this.upstream?.() ?? chatAnswer(`answer ${this.prompts.length}`)
  }
}

export const URL_A = `${ORIGIN}/posts/a`
export const OPERATOR = { authorization: `Bearer ${OPERATOR_TOKEN}` }

export interface PagesSetup extends Omit<TestAppOptions, 'config' | 'upstream'> {
  readonly site?: Site
  /** Overrides for the page variable of the prompt `summary`, and for that prompt. */
  readonly variable?: object
  readonly prompt?: object
  readonly config?: object
}

/** An app with a prompt `summary` about a page, and a site with one page at `URL_A`. */
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
