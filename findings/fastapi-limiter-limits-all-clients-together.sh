#!/usr/bin/env bash
# fastapi-limiter 0.2.0 with pyrate-limiter 4.5.1 (both PyPI; FastAPI 0.165.0, Uvicorn 0.54.0), with
# Python 3.11, 30 November 2026.
#
# Its quick start limits a route to two requests per 5 s, and its identifier is "ip + path". One would
# guess two requests for each address. All addresses together get two: `Limiter(Rate(..))` keeps one
# bucket and ignores the name it is asked for, so the identifier decides nothing. With 0.1.6, which
# kept its counts in Redis, each address had its own.
# `skip_limiter` finds its route by comparing the path with the route's template. A route with a
# parameter is therefore limited in spite of it.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
python3 -m venv environment
environment/bin/pip install --quiet --disable-pip-version-check fastapi-limiter==0.2.0 pyrate-limiter==4.5.1 \
    fastapi==0.165.0 uvicorn==0.54.0 httpx==0.28.1

cat >run.py <<'PY'
import socket, sys, threading, time
from importlib.metadata import version

import httpx, uvicorn
from fastapi import Depends, FastAPI
from fastapi_limiter.decorators import skip_limiter
from fastapi_limiter.depends import RateLimiter
from pyrate_limiter import Duration, Limiter, Rate


def two_a_minute():
    return [Depends(RateLimiter(limiter=Limiter(Rate(2, Duration.MINUTE))))]


app = FastAPI()


@app.get("/", dependencies=two_a_minute())
async def index():
    return "served"


@app.get("/skipped", dependencies=two_a_minute())
@skip_limiter
async def skipped():
    return "served"


@app.get("/skipped/{number}", dependencies=two_a_minute())
@skip_limiter
async def skipped_by_number():
    return "served"


listener = socket.create_server(("127.0.0.1", 0))
server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True).start()
while not server.started:
    time.sleep(0.01)


def answers(path, address):
    transport = httpx.HTTPTransport(local_address=address)
    with httpx.Client(transport=transport, base_url=f"http://127.0.0.1:{listener.getsockname()[1]}") as client:
        return [client.get(path).status_code for _ in range(3)]


seen = {
    "/ from 127.0.0.1": answers("/", "127.0.0.1"),
    "/ from 127.0.0.2": answers("/", "127.0.0.2"),
    "/skipped": answers("/skipped", "127.0.0.1"),
    "/skipped/7": answers("/skipped/7", "127.0.0.1"),
}
print("fastapi-limiter", version("fastapi-limiter"), seen)
expected = [[200, 200, 429], [429, 429, 429], [200, 200, 200], [200, 200, 429]]
sys.exit(0 if list(seen.values()) == expected else 1)
PY
environment/bin/python run.py
