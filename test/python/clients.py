"""The openai package. Each line of the input is a request as JSON, each line of the output its result."""

import asyncio
import json
import sys

from openai import APIError, AsyncOpenAI, OpenAI


def settings(request):
    return {"base_url": request["base_url"], "api_key": "none", "max_retries": 0, "default_headers": request["headers"]}


def resource(client, request):
    return client.chat.completions if request["api"] == "chat" else client.completions


def fields(request):
    prompt = request["prompt"]
    text = {"messages": [{"role": "user", "content": prompt}]} if request["api"] == "chat" else {"prompt": prompt}
    return {"model": request["model"], **text, **request["fields"]}


def whole(answer):
    choice = answer.choices[0]
    return choice.text if hasattr(choice, "text") else choice.message.content


def piece(chunk):
    choice = chunk.choices[0]
    return choice.text if hasattr(choice, "text") else choice.delta.content or ""


def run(request, texts):
    with OpenAI(**settings(request)) as client:
        create = resource(client, request).create
        if not request["stream"]:
            texts.append(whole(create(**fields(request))))
            return
        with create(**fields(request), stream=True) as stream:
            for chunk in stream:
                texts.append(piece(chunk))
                if request["leave"] and texts[-1]:
                    return


async def run_async(request, texts):
    async with AsyncOpenAI(**settings(request)) as client:
        create = resource(client, request).create
        if not request["stream"]:
            texts.append(whole(await create(**fields(request))))
            return
        async with await create(**fields(request), stream=True) as stream:
            async for chunk in stream:
                texts.append(piece(chunk))
                if request["leave"] and texts[-1]:
                    return


def result(request):
    texts = []
    try:
        if request["asynchronous"]:
            asyncio.run(run_async(request, texts))
        else:
            run(request, texts)
    except APIError as error:
        status = getattr(error, "status_code", None)
        kind = type(error).__name__
        return {"texts": texts, "error": {"kind": kind, "status": status, "code": error.code, "message": error.message}}
    return {"texts": texts, "error": None}


for line in sys.stdin:
    print(json.dumps(result(json.loads(line))), flush=True)
