"""Retries of the openai package, and of LangChain with it: what they send again, when, and what they raise."""

import itertools
import time

import openai
from judging import judge, same
from langchain_openai import ChatOpenAI

TEXT = "All is well."
UPSTREAM_WAIT_SECONDS, STREAMS_WAIT_SECONDS = 2, 5
# More misses than one visitor may have in a minute, also if a minute ends in between.
MISSES = 130
ADDRESSES = itertools.count()


class Visitor:
    """One address, a client that is told to retry, and when the client sent requests."""

    def __init__(self, base_url, name, max_retries=2):
        self.path = base_url.split("/")[-2]
        self.name = name
        self.sent = []
        self.on_refusal = lambda: None
        hooks = {"request": [lambda _: self.sent.append(time.monotonic())], "response": [self.received]}
        address = f"2001:db9:0:{next(ADDRESSES):x}::1"
        self.client = openai.OpenAI(
            base_url=base_url,
            api_key="none",
            max_retries=max_retries,
            default_headers={"cf-connecting-ip": address},
            http_client=openai.DefaultHttpxClient(event_hooks=hooks),
        )

    def received(self, response):
        if response.status_code == 429:
            self.on_refusal()

    def prompt(self, number=0):
        """One that no other visitor sends, so that it is a miss."""
        return f"{self.path} {self.name} {number}"

    def complete(self, model="default", number=0, **fields):
        self.sent.clear()
        return self.client.completions.create(model=model, prompt=self.prompt(number), **fields)

    def refused(self, kind, code, request):
        """Sends it, and checks the error."""
        try:
            request()
        except kind as error:
            same("code", error.code, code)
            same(f"request id of {code}", bool(error.request_id), True)
            same("header", error.response.headers["x-request-id"], error.request_id)
            return error
        raise AssertionError(f"no {code}")

    def waited(self, seconds):
        same("requests", len(self.sent), 2)
        waited = self.sent[1] - self.sent[0]
        if waited < seconds:
            raise AssertionError(f"sent again after {waited} s, expected {seconds}")


def not_retried(base_url):
    visitor = Visitor(base_url, "wrong")
    visitor.refused(openai.BadRequestError, "invalid_value", lambda: visitor.complete(temperature=9))
    same("requests with a wrong field", len(visitor.sent), 1)
    visitor.refused(openai.APIStatusError, "model_not_allowed", lambda: visitor.complete(model="missing"))
    same("requests for a wrong model", len(visitor.sent), 1)
    visitor.refused(openai.InternalServerError, "upstream_rejected", lambda: visitor.complete("rejecting"))
    same("requests that only the owner can help", len(visitor.sent), 1)

    # Its budget does not suffice until tomorrow.
    visitor = Visitor(base_url, "above the budget")
    visitor.refused(openai.RateLimitError, "budget_exhausted", lambda: visitor.complete(max_tokens=2000))
    same("requests above the budget", len(visitor.sent), 1)


def rate_limited(base_url):
    visitor = Visitor(base_url, "many", max_retries=0)

    def misses():
        for number in range(MISSES):
            visitor.complete(number=number, max_tokens=1)

    error = visitor.refused(openai.RateLimitError, "rate_limited", misses)
    same("requests", len(visitor.sent), 1)
    same("seconds to wait", error.response.headers.get("retry-after"), "60")


def healed(base_url):
    visitor = Visitor(base_url, "failing")
    same("text", visitor.complete("failing").choices[0].text, TEXT)
    same("requests of a completion", len(visitor.sent), 3)
    visitor.sent.clear()
    messages = [{"role": "user", "content": visitor.prompt(1)}]
    chunks = visitor.client.chat.completions.create(model="failing", messages=messages, stream=True)
    same("streamed text", "".join(chunk.choices[0].delta.content or "" for chunk in chunks), TEXT)
    same("requests of a chat", len(visitor.sent), 3)
    chat = ChatOpenAI(base_url=base_url, api_key="none", model="failing", max_retries=2)
    same("LangChain's text", chat.invoke(visitor.prompt(2)).content, TEXT)


def waits_for_upstream(base_url):
    visitor = Visitor(base_url, "busy")
    same("text", visitor.complete("busy").choices[0].text, TEXT)
    visitor.waited(UPSTREAM_WAIT_SECONDS)


def waits_for_its_stream(base_url):
    """The one stream that a visitor may have ends when the next request has been refused."""
    visitor = Visitor(base_url, "second stream")
    stream = visitor.complete("endless", stream=True)
    next(stream)
    visitor.on_refusal = stream.close
    visitor.complete(number=1, max_tokens=1)
    visitor.waited(STREAMS_WAIT_SECONDS)


def check(base_url):
    for part in (not_retried, rate_limited, healed, waits_for_upstream, waits_for_its_stream):
        part(base_url)


judge(check)
