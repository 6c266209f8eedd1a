#!/usr/bin/env bash
# cashews 7.6.0 (PyPI), with Python 3.11, 1 December 2026. Takes half a minute.
#
# A circuit breaker that opens for an hour if half of an hour's calls fail: `errors_rate=50,
# period='1h'`. One would guess that a service of which every fifth call fails is never cut off. It is
# with its 25,000th call of the hour, seven calls a second: calls and failures are both counted
# up to 9,999 and no further, so beyond that the calls stay 9,999 and the failures still rise. So the
# busier the service, the smaller the share that opens the circuit; with a hundred thousand
# calls in a period, five in a hundred do. The README calls `errors_rate` the "errors rate in percents"
# and names no bound. By its source it is so with Redis too. If every second call fails, it opens
# as soon as there are the hundred calls of `min_calls`.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
python3 -m venv venv
venv/bin/pip --quiet --disable-pip-version-check install cashews==7.6.0

cat >run.py <<'PY'
import asyncio
import importlib.metadata
import sys

from cashews import cache
from cashews.exceptions import CircuitBreakerOpen


async def opens_at(every, calls):
    """The call that is the first to be rejected, if each so-and-so-many fails."""

    @cache.circuit_breaker(errors_rate=50, period="1h", ttl="1h", min_calls=100, key=f"service-{every}")
    async def call(number):
        if number % every == 0:
            raise ConnectionError

    for number in range(1, calls + 1):
        try:
            await call(number)
        except ConnectionError:
            pass
        except CircuitBreakerOpen:
            return number


async def main():
    cache.setup("mem://")
    return {every: await opens_at(every, 30_000) for every in (2, 5)}


print("cashews", importlib.metadata.version("cashews"))
seen = asyncio.run(main())
for every, call in seen.items():
    print(f"one in {every} fails: call {call} of the hour is the first that is rejected")
sys.exit(seen != {2: 101, 5: 25_001})
PY
venv/bin/python run.py
