"""LangChain: its model of completions and its chat model, whole, streamed and asynchronous."""

import asyncio
from functools import reduce
from operator import add

import openai
from judging import FIELDS, PROMPT, judge, same
from langchain_openai import ChatOpenAI, OpenAI

# `n` and the penalties are sent, too: LangChain's own defaults.
SETTINGS = {"model": "default", "api_key": "none", "max_retries": 0}


def check(base_url):
    model = OpenAI(base_url=base_url, **SETTINGS, **FIELDS)
    text = model.invoke(PROMPT)
    same("text", "".join(model.stream(PROMPT)), text)
    same("texts", model.batch([PROMPT, PROMPT]), [text, text])

    chat = ChatOpenAI(base_url=base_url, stream_usage=True, **SETTINGS, **FIELDS)
    whole = chat.invoke(PROMPT)
    streamed = reduce(add, chat.stream(PROMPT))
    asynchronous = asyncio.run(chat.ainvoke(PROMPT))
    for message in (streamed, asynchronous):
        same("content", message.content, whole.content)
        same("usage", message.usage_metadata, whole.usage_metadata)
        reason = message.response_metadata["finish_reason"]
        same("reason", reason, whole.response_metadata["finish_reason"])

    try:
        ChatOpenAI(base_url=base_url, temperature=9, **SETTINGS).invoke(PROMPT)
    except openai.BadRequestError as error:
        same("code", error.code, "invalid_value")
    else:
        raise AssertionError("no error")


judge(check)
