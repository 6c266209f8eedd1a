#!/usr/bin/env bash
# throttlekit 0.2.0 (PyPI; sqlalchemy 2.0.50), with Python 3.11, 1 December 2026.
#
# Ten calls a minute, `TokenBucketRateLimiter(max_tokens=10, refill_interval=60)`. Its README says that
# all limiters support the same three ways: the decorator `limit`, the context manager and `acquire`.
# One would guess that each of them lets ten calls through at once and makes the eleventh wait for a
# minute. The context manager and `acquire` do. Of calls in turn, the decorator lets all through, here a
# thousand: after each call it gives back the place and the token, so the tokens limit nothing but the
# calls at a time, and ten a minute become ten at once.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
python3 -m venv venv
venv/bin/pip --quiet --disable-pip-version-check install 'throttlekit[sql]==0.2.0' sqlalchemy==2.0.50

cat >run.py <<'PY'
import asyncio
import importlib.metadata
import sys

from throttlekit import TokenBucketRateLimiter

CALLS = 1000


async def calls_in_two_seconds(way):
    limiter = TokenBucketRateLimiter(max_tokens=10, refill_interval=60)
    await limiter.start()
    called = 0

    async def job():
        nonlocal called
        called += 1

    @limiter.limit
    async def decorated():
        await job()

    async def in_context():
        async with limiter:
            await job()

    async def acquired():
        await limiter.acquire()
        await job()

    call = {"decorator": decorated, "context manager": in_context, "acquire": acquired}[way]

    async def in_turn():
        for _ in range(CALLS):
            await call()

    try:
        await asyncio.wait_for(in_turn(), 2)
    except asyncio.TimeoutError:
        pass
    await limiter.stop()
    return called


print("throttlekit", importlib.metadata.version("throttlekit"), "ten calls a minute, calls within two seconds:")
seen = {way: asyncio.run(calls_in_two_seconds(way)) for way in ("acquire", "context manager", "decorator")}
for way, called in seen.items():
    print(f"  {way}: {called}")
sys.exit(list(seen.values()) != [10, 10, CALLS])
PY
venv/bin/python run.py
