"""LiteLLM as a client: completions and chats, whole, streamed and asynchronous."""

import asyncio
import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm
from judging import FIELDS, PROMPT, TOKENS, judge, same

litellm.telemetry = False
MESSAGES = [{"role": "user", "content": PROMPT}]


async def asynchronous(settings):
    stream = await litellm.acompletion(messages=MESSAGES, stream=True, **settings)
    return [chunk async for chunk in stream]


def check(base_url):
    server = {"api_base": base_url, "api_key": "none", "num_retries": 0}
    settings = {"model": "openai/default", **server, **FIELDS}
    whole = litellm.completion(messages=MESSAGES, **settings)
    content = whole.choices[0].message.content
    chunks = list(litellm.completion(messages=MESSAGES, stream=True, stream_options={"include_usage": True}, **settings))
    for stream in (chunks, asyncio.run(asynchronous(settings))):
        built = litellm.stream_chunk_builder(stream, messages=MESSAGES)
        same("content", built.choices[0].message.content, content)
        same("reason", built.choices[0].finish_reason, whole.choices[0].finish_reason)
    usage = litellm.stream_chunk_builder(chunks, messages=MESSAGES).usage
    same("tokens", usage.completion_tokens, whole.usage.completion_tokens)

    settings["model"] = "text-completion-openai/default"
    text = litellm.text_completion(prompt=PROMPT, **settings)
    same("tokens", (text.usage.prompt_tokens, text.usage.completion_tokens), TOKENS)
    streamed = litellm.text_completion(prompt=PROMPT, stream=True, **settings)
    same("text", "".join(chunk.choices[0].text or "" for chunk in streamed), text.choices[0].text)

    try:
        litellm.completion(messages=MESSAGES, **{**settings, "model": "openai/default", "temperature": 9})
    except litellm.BadRequestError as error:
        same("status", error.status_code, 400)
    else:
        raise AssertionError("no error")


judge(check)
