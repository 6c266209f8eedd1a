#!/usr/bin/env bash
# purgatory 3.0.1, beside circuitbreaker 2.1.3 and aiobreaker 1.2.0 (all PyPI), with Python 3.11,
# 1 December 2026.
#
# A breaker that opens at five failures in a row, around a call that takes a while. Five clients come
# and close their connections, so that their tasks are cancelled, as servers for asyncio do. Nothing
# has failed. One would guess that the circuit stays closed, as those of circuitbreaker and aiobreaker
# do. purgatory's opens, and the next client is rejected: whatever leaves the block counts as a
# failure, also `CancelledError`, which asyncio keeps apart from `Exception` for that reason, and
# its README does not speak of it. The trial after `ttl` is a failure as well if its client
# leaves, and the circuit is open for another `ttl`. So clients that are impatient take a service away
# from those who are not. `exclude=[asyncio.CancelledError]` keeps it closed.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
python3 -m venv venv
venv/bin/pip --quiet --disable-pip-version-check install purgatory==3.0.1 circuitbreaker==2.1.3 aiobreaker==1.2.0

cat >run.py <<'PY'
import asyncio
import importlib.metadata
import sys

import aiobreaker
import circuitbreaker
import purgatory

FAILURES = 5


async def service(seconds):
    await asyncio.sleep(seconds)


async def leave(call):
    """A client that closes its connection while its call is under way."""
    task = asyncio.create_task(call(60))
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def answered(call):
    try:
        await call(0)
        return True
    except Exception:
        return False


async def run(call):
    for _ in range(FAILURES):
        await leave(call)
    return await answered(call)


async def trial(call):
    """The circuit opens, and the client of the trial after a second leaves too."""
    for _ in range(FAILURES):
        await leave(call)
    await asyncio.sleep(1.1)
    await leave(call)
    return await answered(call)


def by_purgatory(name, **options):
    factory = purgatory.AsyncCircuitBreakerFactory(default_threshold=FAILURES, default_ttl=1, **options)
    return factory(name)(service)


async def main():
    one = circuitbreaker.CircuitBreaker(failure_threshold=FAILURES)
    other = aiobreaker.CircuitBreaker(fail_max=FAILURES)
    return {
        f"circuitbreaker, {FAILURES} clients left": await run(one(service)),
        f"aiobreaker, {FAILURES} clients left": await run(other(service)),
        f"purgatory, {FAILURES} clients left": await run(by_purgatory("first")),
        "purgatory, and the client of the trial left": await trial(by_purgatory("second")),
        "purgatory with exclude": await run(by_purgatory("third", exclude=[asyncio.CancelledError])),
    }


print("purgatory", importlib.metadata.version("purgatory"))
seen = asyncio.run(main())
for name, well in seen.items():
    print(f"{name}: the next call is {'answered' if well else 'rejected'}")
sys.exit(list(seen.values()) != [True, True, False, False, True])
PY
venv/bin/python run.py
