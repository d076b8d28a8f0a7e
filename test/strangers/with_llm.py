"""The library of the command `llm`, with a model of completions and a chat model of the endpoint."""

import os
import tempfile
from pathlib import Path

folder = tempfile.TemporaryDirectory()
os.environ["LLM_USER_PATH"] = folder.name

import llm
from judging import BASE, FIELDS, PATHS, PROMPT, judge, same

MODEL = """
- model_id: {path}-{kind}
  model_name: default
  api_base: {base}/{path}/v1
  completion: {completion}
"""
models = [
    MODEL.format(path=path, kind=kind, base=BASE, completion="true" if kind == "text" else "false")
    for path in PATHS
    for kind in ("text", "chat")
]
Path(folder.name, "extra-openai-models.yaml").write_text("".join(models))


def tokens(response):
    usage = response.usage()
    return usage.input, usage.output


def check(base_url):
    path = base_url.split("/")[-2]
    for kind in ("text", "chat"):
        model = llm.get_model(f"{path}-{kind}")
        whole = model.prompt(PROMPT, stream=False, key="none", **FIELDS)
        text = whole.text()
        streamed = model.prompt(PROMPT, stream=True, key="none", **FIELDS)
        same("text", streamed.text(), text)
        # Of completions it counts nothing.
        if kind == "chat":
            same("tokens", tokens(streamed), tokens(whole))
    try:
        llm.get_model(f"{path}-chat").prompt(PROMPT, stream=False, key="none", temperature=2, max_tokens=10**9).text()
    except Exception as error:
        same("code", getattr(error, "code", None), "invalid_value")
    else:
        raise AssertionError("no error")


judge(check)
