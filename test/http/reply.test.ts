// The headers of an answer, and the parsing of request headers.
import fc from 'fast-check'
import { expect, test } from 'vitest'
import type { Shape } from '../../src/completion/encode.ts'
import {
  answerHeaders,
  type CacheOutcome,
  cacheStatus,
  cacheWord,
  entityTag,
  matchesTag,
  parseCacheControl,
  prefersText,
} from '../../src/http/reply.ts'

const outcomes: readonly [CacheOutcome, string, string][] = [
  [{ kind: 'hit', detail: 'memory', ttlSeconds: 60 }, 'hit; ttl=60; detail=memory', 'memory'],
  [{ kind: 'hit', detail: 'kv', ttlSeconds: 2_592_000 }, 'hit; ttl=2592000; detail=kv', 'kv'],
  [{ kind: 'hit', detail: 'flight', ttlSeconds: 1 }, 'hit; ttl=1; detail=flight', 'flight'],
  [{ kind: 'hit', detail: 'stale', ttlSeconds: -30 }, 'hit; ttl=-30; detail=stale', 'stale'],
  [{ kind: 'previous' }, 'hit; detail=previous', 'previous'],
  [{ kind: 'miss', stored: false, collapsed: false }, 'fwd=miss', 'miss'],
  [{ kind: 'miss', stored: true, collapsed: false }, 'fwd=miss; stored', 'miss'],
  [{ kind: 'miss', stored: false, collapsed: true }, 'fwd=miss; collapsed', 'collapsed'],
  [{ kind: 'request' }, 'fwd=request', 'miss'],
  [{ kind: 'bypass' }, 'fwd=bypass', 'bypass'],
]

test.each(outcomes)('%j is "edge-completions; %s" in the header and "%s" in the log', (...row) => {
  const [outcome, text, word] = row
  expect(cacheStatus(outcome)).toBe(`edge-completions; ${text}`)
  expect(cacheWord(outcome)).toBe(word)
})

const shapeAs = (as: Shape['as']): Shape => ({
  api: 'completion',
  as,
  stream: false,
  includeUsage: false,
})

test('entityTag() differs for each representation of each completion', () => {
  const tags = ['cmpl-a', 'cmpl-b'].flatMap((id) =>
    ['json', 'chat.json', 'sse.usage'].map((name) => entityTag(id, name)),
  )
  expect(new Set(tags).size).toBe(6)
  for (const tag of tags) expect(tag).toMatch(/^"[!#-~]+"$/)
})

test.each([
  [null, false],
  ['', false],
  ['"a"', true],
  ['W/"a"', true],
  ['*', true],
  ['"b"', false],
  ['"b", "a"', true],
  ['"b",W/"a" ,"c"', true],
  ['a', false],
  ['"A"', false],
  ['"a', false],
  ['"a.json"', false],
])('matchesTag() of %j and "a" returns %j', (header, matches) => {
  expect(matchesTag(header, '"a"')).toBe(matches)
})

test('answerHeaders() of a fresh answer', () => {
  const headers = answerHeaders({
    shape: shapeAs('json'),
    cache: { kind: 'miss', stored: true, collapsed: false },
    timing: { cacheMs: 3, upstreamMs: 800 },
  })
  expect(headers).toEqual({
    'content-type': 'application/json',
    'cache-control': 'no-store',
    'cache-status': 'edge-completions; fwd=miss; stored',
    'server-timing': 'cache;dur=3, upstream;dur=800',
    vary: 'Origin, Accept',
  })
})

test('answerHeaders() of a cached answer that browsers may cache', () => {
  const headers = answerHeaders({
    shape: shapeAs('json'),
    cache: { kind: 'hit', detail: 'kv', ttlSeconds: 100 },
    timing: { cacheMs: 3, upstreamMs: null },
    entry: { ageSeconds: 7, tag: '"t"' },
    estimated: true,
    browserSeconds: 100,
  })
  expect(headers).toEqual({
    'content-type': 'application/json',
    'cache-control': 'public, max-age=100',
    'cache-status': 'edge-completions; hit; ttl=100; detail=kv',
    'server-timing': 'cache;dur=3',
    vary: 'Origin, Accept',
    age: '7',
    etag: '"t"',
    'x-usage-estimated': '1',
  })
})

test('answerHeaders() sends max-age=0, not no-store, for a stale answer', () => {
  const headers = answerHeaders({
    shape: shapeAs('json'),
    cache: { kind: 'hit', detail: 'stale', ttlSeconds: -1 },
    timing: { cacheMs: 0, upstreamMs: null },
    browserSeconds: 0,
  })
  expect(headers['cache-control']).toBe('public, max-age=0')
})

test.each([
  ['json', 'application/json'],
  ['sse', 'text/event-stream'],
  ['text', 'text/plain'],
] as const)('answerHeaders() as %s has the type %s', (as, type) => {
  const headers = answerHeaders({
    shape: shapeAs(as),
    cache: { kind: 'bypass' },
    timing: { cacheMs: 0, upstreamMs: 0 },
  })
  expect(headers['content-type']?.split(';')[0]).toBe(type)
})

test('Server-Timing is never negative when the clock jumps back', () => {
  const timed = (timing: { cacheMs: number; upstreamMs: number | null }) =>
    answerHeaders({ shape: shapeAs('json'), cache: { kind: 'bypass' }, timing })['server-timing']
  expect(timed({ cacheMs: -5, upstreamMs: -100 })).toBe('cache;dur=0, upstream;dur=0')
  expect(timed({ cacheMs: -5, upstreamMs: null })).toBe('cache;dur=0')
})

test.each([
  [null, false],
  ['', false],
  ['*/*', false],
  ['text/plain', true],
  ['TEXT/Plain', true],
  ['text/plain; charset=utf-8', true],
  ['application/json', false],
  ['application/json, text/plain, */*', false],
  ['text/plain, application/json', true],
  ['text/plain, */*', true],
  ['application/json;q=0.5, text/plain', true],
  ['application/json, text/plain;q=0.9', false],
  ['text/plain;q=0.1, application/json;q=0.2', false],
  ['text/plain;q=0.2, */*;q=0.1', true],
  ['*/*;q=0.2, text/plain;q=0.2', false],
  ['text/plain;q=0', false],
  ['text/plain;q=0, */*', false],
  ['application/json;q=0, text/plain;q=0', false],
  ['text/plain;q=x', false],
  ['text/plain;q=2', false],
  ['text/*', true],
  ['text/html, application/xhtml+xml, application/xml;q=0.9, */*;q=0.8', false],
  ['text/html, text/plain;q=0.5', true],
  ['application/*, text/plain', false],
  ['text/plain2', false],
])('prefersText(%j) returns %j', (accept, text) => {
  expect(prefersText(accept, false)).toBe(text)
})

test.each([
  ['text/event-stream', false],
  ['text/event-stream, text/plain', false],
  ['text/plain, text/event-stream', true],
  ['text/plain;q=0.9, text/event-stream', false],
  ['text/plain, text/event-stream;q=0.1, application/json;q=0.1', true],
  ['text/plain', true],
  ['*/*', false],
  ['application/json, text/plain, */*', false],
])('prefersText(%j) of a stream returns %j', (accept, text) => {
  expect(prefersText(accept, true)).toBe(text)
})

test('prefersText() accepts any header and returns false if JSON is first with q=1', () => {
  fc.assert(
    fc.property(fc.string(), fc.boolean(), (accept, stream) => {
      expect(typeof prefersText(accept, stream)).toBe('boolean')
      expect(prefersText(`application/json, ${accept}`, stream)).toBe(false)
    }),
  )
})

const none = { noCache: false, noStore: false, onlyIfCached: false }

test.each([
  [null, none],
  ['', none],
  ['no-cache', { ...none, noCache: true }],
  ['NO-STORE', { ...none, noStore: true }],
  ['max-age=0 , only-if-cached', { ...none, onlyIfCached: true }],
  ['no-cache,no-store,only-if-cached', { noCache: true, noStore: true, onlyIfCached: true }],
  ['max-age=0', none],
  ['no-storex', none],
  ['must-revalidate, private', none],
])('parseCacheControl() reads %j', (header, directives) => {
  expect(parseCacheControl(header)).toEqual(directives)
})
