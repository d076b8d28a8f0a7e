"""The openai package: completions and chats, whole and streamed, in threads and asynchronous."""

import asyncio

import openai
from judging import FIELDS, PROMPT, TOKENS, judge, same

SETTINGS = {"api_key": "none", "max_retries": 0}
MESSAGES = [{"role": "user", "content": PROMPT}]
USAGE = {"include_usage": True}


def read(chunks, text_of):
    """The text of a stream, its reasons to end, and the tokens it counts."""
    texts, reasons, usage = [], [], None
    for chunk in chunks:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts.append(text_of(choice) or "")
            reasons += [choice.finish_reason] if choice.finish_reason else []
    return "".join(texts), reasons, usage


def tokens(usage):
    same("total tokens", usage.total_tokens, usage.prompt_tokens + usage.completion_tokens)
    return usage.prompt_tokens, usage.completion_tokens


def completions(client):
    whole = client.completions.create(model="default", prompt=PROMPT, **FIELDS)
    same("tokens", tokens(whole.usage), TOKENS)
    stream = client.completions.create(model="default", prompt=PROMPT, stream=True, stream_options=USAGE, **FIELDS)
    text, reasons, usage = read(stream, lambda choice: choice.text)
    same("text", text, whole.choices[0].text)
    same("reasons", reasons, [whole.choices[0].finish_reason])
    same("tokens of the stream", tokens(usage), TOKENS)


def echo(client):
    answer = client.completions.create(model="default", prompt=PROMPT, logprobs=2, echo=True, **FIELDS)
    [choice] = answer.choices
    same("echo", choice.text[: len(PROMPT)], PROMPT)
    found = zip(choice.logprobs.tokens, choice.logprobs.text_offset)
    for token, offset in found:
        same(f"text at {offset}", choice.text[offset : offset + len(token)], token)


def chats(client):
    whole = client.chat.completions.create(model="default", messages=MESSAGES, **FIELDS)
    stream = client.chat.completions.create(model="default", messages=MESSAGES, stream=True, stream_options=USAGE, **FIELDS)
    text, reasons, usage = read(stream, lambda choice: choice.delta.content)
    same("content", text, whole.choices[0].message.content)
    same("reasons", reasons, [whole.choices[0].finish_reason])
    same("tokens", tokens(usage), tokens(whole.usage))


def ends(client):
    create = client.completions.with_streaming_response.create
    with create(model="default", prompt=PROMPT, stream=True, **FIELDS) as response:
        lines = [line for line in response.iter_lines() if line]
    same("last line", lines[-1], "data: [DONE]")


async def asynchronous(base_url):
    async with openai.AsyncOpenAI(base_url=base_url, **SETTINGS) as client:
        whole = await client.completions.create(model="default", prompt=PROMPT, **FIELDS)
        stream = await client.completions.create(model="default", prompt=PROMPT, stream=True, **FIELDS)
        chunks = [chunk async for chunk in stream]
        text, _, _ = read(chunks, lambda choice: choice.text)
        same("asynchronous text", text, whole.choices[0].text)


def errors(client):
    try:
        client.completions.create(model="default", prompt=PROMPT, temperature=9)
    except openai.BadRequestError as error:
        same("code", (error.code, error.param), ("invalid_value", "temperature"))
    else:
        raise AssertionError("no error")


def check(base_url):
    with openai.OpenAI(base_url=base_url, **SETTINGS) as client:
        for part in (completions, echo, chats, ends, errors):
            part(client)
        same("first model", client.models.list().data[0].id, "default")
    asyncio.run(asynchronous(base_url))


judge(check)
