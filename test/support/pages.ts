// A site and an upstream as one script of the app in process: the site's pages change and fail as a
// test says, the upstream answers with what it was asked, so that another page is another answer.
import { ORIGIN, type Script } from './app.ts'

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
