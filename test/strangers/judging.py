"""Has a client read the endpoint as it is, and mutants of it, each below a path of its own.

The arguments are an origin and the paths. The output is one JSON object: by path, null or what was found.
"""

import json
import sys
import traceback

BASE = sys.argv[1]
PATHS = sys.argv[2].split(",")

PROMPT = "Alice was"
# The same fields in each client, so that all read the same answer.
FIELDS = {"max_tokens": 12, "temperature": 0, "seed": 7}
TOKENS = (2, 12)


def same(what, found, expected):
    if found != expected:
        raise AssertionError(f"{what}: {found!r}, expected {expected!r}")


def judge(check):
    """Calls check(base URL) for each path, and prints what it found."""
    found = {}
    for path in PATHS:
        try:
            check(f"{BASE}/{path}/v1")
            found[path] = None
        except Exception as error:  # Each client has errors of its own.
            found[path] = f"{type(error).__name__}: {error}"
            if path == "none":
                traceback.print_exc()
    print(json.dumps(found))
