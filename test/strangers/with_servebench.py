"""servebench: streams under load, with the times to the first token and between tokens that it measures.

All requests are misses first, and hits when they are sent again.
"""

import contextlib
import json
import sys
import tempfile
from pathlib import Path

from judging import PATHS, judge, same
from servebench.cli import app

REQUESTS, CONCURRENCY, TOKENS = 32, 8, 25
# The demo model waits 12.5 ms before each token. A slow machine only adds to it.
LEAST_GAP_SECONDS = 0.006
FOLDER = tempfile.TemporaryDirectory()


def load(base_url, endpoint, seed):
    """What servebench writes about its requests."""
    report = Path(FOLDER.name, "run.json")
    args = {"url": base_url, "model": "default", "endpoint": endpoint, "seed": seed, "out": report}
    args |= {"num-requests": REQUESTS, "concurrency": CONCURRENCY, "output-len": TOKENS, "input-len": 24, "warmup": 0}
    flags = ["--no-ignore-eos", "--no-gpu"]
    with contextlib.redirect_stdout(sys.stderr):
        app(["run", *(f"--{name}={value}" for name, value in args.items()), *flags], standalone_mode=False)
    [level] = json.loads(report.read_text())["levels"]
    return level["requests"], level["summary"]


def at_least(what, found, least):
    if not found or found < least:
        raise AssertionError(f"{what}: {found!r}, expected at least {least!r}")


def check(base_url):
    path = base_url.split("/")[-2]
    for i, endpoint in enumerate(("completions", "chat")):
        # A chat of one message and its completion are one answer, so each has prompts of its own.
        seed = 2 * PATHS.index(path) + i
        misses, of_misses = load(base_url, endpoint, seed)
        hits, of_hits = load(base_url, endpoint, seed)
        for summary in (of_misses, of_hits):
            same("requests", (summary["completed"], summary["failed"], summary["errors"]), (REQUESTS, 0, {}))
            same("where tokens are counted", summary["token_sources"], {"usage": REQUESTS})
        counts = [request["output_tokens"] for request in misses]
        same("most tokens", max(counts), TOKENS)
        same("tokens of hits", [request["output_tokens"] for request in hits], counts)
        for request in misses:
            # One chunk may hold several tokens.
            at_least("tokens", request["output_tokens"], len(request["chunk_times"]))
        at_least("mean time between tokens", of_misses["itl"]["mean"], LEAST_GAP_SECONDS)
        first, of_hit = of_misses["ttft"]["p50"], of_hits["ttft"]["p50"]
        at_least("time to the first token", of_hit, 1e-6)
        at_least("time to the first token of misses", first, 2 * of_hit)


judge(check)
