#!/usr/bin/env bash
# flint-limiter 0.2.1 (PyPI; starlette 0.46.2, httpx 0.28.1), with Python 3.11, 1 December 2026.
#
# `FlintRateLimitMiddleware(.., rate=10, per="1h")`, with the counts in a folder that survives
# restarts. The limit is lowered to three an hour, and the service is deployed again. One would guess
# that new clients get three, and that those who are known get no more than three. New clients get
# three. A client that was there before gets ten an hour as long as the folder is there: its limit
# lies in the folder beside its count, and the middleware sets a limit only for a key that has none.
# A denied client is told to come back in an hour, by `Retry-After`, which is when the bucket will be
# full again. It has a token in six minutes.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
python3 -m venv venv
venv/bin/pip --quiet --disable-pip-version-check install 'flint-limiter[fastapi]==0.2.1' starlette==0.46.2 httpx==0.28.1

# A deployment with a limit an hour: what a client, known or new, gets of twenty requests.
cat >serve.py <<'PY'
import sys

import flint
from flint.fastapi import FlintRateLimitMiddleware
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient

rate, *clients = sys.argv[1:]
limits = Middleware(
    FlintRateLimitMiddleware, limiter=flint.Limiter(data_dir="data"), rate=int(rate), per="1h",
    key_func=lambda request: request.headers["client"])
app = Starlette(routes=[Route("/", lambda _: Response())], middleware=[limits])
with TestClient(app) as service:
    for client in clients:
        responses = [service.get("/", headers={"client": client}) for _ in range(20)]
        admitted = sum(response.status_code == 200 for response in responses)
        print(admitted, responses[-1].headers["X-RateLimit-Limit"], responses[-1].headers["Retry-After"])
PY
cat >run.py <<'PY'
import subprocess
import sys
from importlib.metadata import version


def deploy(rate, *clients):
    output = subprocess.run([sys.executable, "serve.py", str(rate), *clients], capture_output=True, check=True, text=True)
    return [tuple(map(int, line.split())) for line in output.stdout.splitlines()]


print("flint-limiter", version("flint-limiter"))
(first,) = deploy(10, "used")
# A client that came once, before the limit was lowered.
subprocess.run([sys.executable, "-c", """
import flint
limiter = flint.Limiter(data_dir="data")
limiter.limit("quiet", rate=10, per="1h")
limiter.check("quiet")
"""], check=True)
used, quiet, new = deploy(3, "used", "quiet", "new")
print(f"ten an hour: {first[0]} of twenty admitted, then Retry-After: {first[2]}")
for name, (admitted, limit, _) in {"a client that came once": quiet, "a new client": new}.items():
    print(f"deployed with three an hour, {name}: {admitted} of twenty admitted, X-RateLimit-Limit: {limit}")
sys.exit(not (first[0] == 10 and 3590 <= first[2] <= 3600 and quiet[:2] == (9, 10) and new[:2] == (3, 3)))
PY
venv/bin/python run.py
