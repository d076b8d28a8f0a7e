"""lm-evaluation-harness with `local-completions`: likelihoods of choices (`echo`, `logprobs`), and texts.

A benchmark of its own, since others are downloaded: which word the demo model's book has next.
"""

import logging
import os
import tempfile

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import datasets
from judging import judge, same
from lm_eval import evaluate
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.openai_completions import LocalCompletionsAPI
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

logging.disable(logging.WARNING)

DOCS = [
    {"start": "Alice was beginning to get very tired", "choices": [" of", " tired", " pleasure"], "answer": 0},
    {"start": "So she was considering in her own", "choices": [" book", " mind", " get"], "answer": 1},
    {"start": "suddenly a White", "choices": [" own", " Alice", " Rabbit"], "answer": 2},
]
# Its word is the likeliest of all.
GREEDY = [[i == doc["answer"] for i in range(3)] for doc in DOCS]
NEXT = [" of being all", " mind (as", " Rabbit, and"]


def save_tokenizer():
    """Its tokens are those of the demo model: a word has the space before it."""
    pieces = " ?\\w+|[^\\w\\s]"
    split = pre_tokenizers.Split(Regex(pieces), "isolated")
    texts = [doc["start"] + choice for doc in DOCS for choice in doc["choices"]]
    words = sorted({word for text in texts for word, _ in split.pre_tokenize_str(text)})
    whole = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["<eos>", *words])}, unk_token="<eos>"))
    whole.pre_tokenizer, whole.decoder = split, decoders.Fuse()
    PreTrainedTokenizerFast(tokenizer_object=whole, eos_token="<eos>").save_pretrained(FOLDER.name)


def docs(**_):
    return {"test": datasets.Dataset.from_list(DOCS)}


def task(name, **more):
    shared = {"custom_dataset": docs, "test_split": "test", "doc_to_text": "{{start}}", "target_delimiter": ""}
    return ConfigurableTask(config={"task": name, **shared, **more})


def check(base_url):
    settings = {"base_url": f"{base_url}/completions", "model": "default", "tokenizer": FOLDER.name}
    settings |= {"tokenizer_backend": "huggingface", "tokenized_requests": False, "max_retries": 1}
    likelihood = task("likelihood", output_type="multiple_choice", doc_to_choice="choices", doc_to_target="answer")
    until = {"until": ["."], "max_gen_toks": 3, "do_sample": False}
    text = task("text", output_type="generate_until", doc_to_target="{{start}}", generation_kwargs=until)
    model = LocalCompletionsAPI(**settings, batch_size=2)
    results = evaluate(model, {"likelihood": likelihood, "text": text}, bootstrap_iters=0)
    same("accuracy", results["results"]["likelihood"]["acc,none"], 1.0)
    resps = [sample["resps"] for sample in results["samples"]["likelihood"]]
    same("greedy", [[greedy for ((_, greedy),) in each] for each in resps], GREEDY)
    same("texts", [sample["resps"][0][0] for sample in results["samples"]["text"]], NEXT)


FOLDER = tempfile.TemporaryDirectory()
save_tokenizer()
judge(check)
