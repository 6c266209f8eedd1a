#!/usr/bin/env bash
# nopanic 0.3.0 (PyPI), with Python 3.11, 1 December 2026.
#
# Ten calls a second and no bursts, `rate_limit(10, 1.0, burst=1)`. A caller that must wait reserves
# its place in time, and "a waiter that is cancelled gives its token back". Twenty callers come, and
# the first ten give up. Ten new ones come. One would guess that they take the ten places that were
# given up, or come last. They get the ten places of those who still wait: for a second nobody is let
# through, then two calls run at each tenth of a second. What comes back is a number of tokens, not
# the places in time.
# With a hundred callers a second, each of which gives up after a second, nothing runs for most of the
# time, and then a hundred calls run within one second. Callers that don't give up keep to ten a
# second.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
python3 -m venv venv
venv/bin/pip --quiet --disable-pip-version-check install nopanic==0.3.0

cat >run.py <<'PY'
import asyncio
import importlib.metadata
import sys
import time

from nopanic import rate_limit


def limited():
    """A limited call, and when it ran."""
    times = []

    @rate_limit(10, 1.0, burst=1)
    async def call():
        times.append(time.monotonic())

    return call, times


def most_in_a_second(times):
    return max(sum(start <= at < start + 0.999 for at in times) for start in times)


async def ten_of_twenty_give_up():
    call, times = limited()
    await call()
    waiting = [asyncio.create_task(call()) for _ in range(20)]
    await asyncio.sleep(0.05)
    for task in waiting[:10]:
        task.cancel()
    await asyncio.gather(*waiting[:10], return_exceptions=True)
    await asyncio.gather(*waiting[10:], *(call() for _ in range(10)))
    return [at - times[0] for at in times]


async def crowd(callers, patience):
    """A hundred callers a second."""
    call, times = limited()

    async def caller():
        try:
            await asyncio.wait_for(call(), patience)
        except asyncio.TimeoutError:
            pass

    start = time.monotonic()
    tasks = []
    for number in range(callers):
        await asyncio.sleep(start + number / 100 - time.monotonic())
        tasks.append(asyncio.create_task(caller()))
    await asyncio.gather(*tasks)
    return most_in_a_second(times), max(after - at for at, after in zip(times, times[1:]))


async def main():
    times, patient, impatient = await asyncio.gather(ten_of_twenty_give_up(), crowd(50, 60), crowd(1500, 1))
    print("nopanic", importlib.metadata.version("nopanic"), "ten a second, no bursts")
    print("ten of twenty gave up, ten came; calls ran at", *(f"{at:.1f}" for at in times), "s")
    print(f"patient callers: at most {patient[0]} in a second, at most {patient[1]:.1f} s apart")
    print(f"impatient callers: at most {impatient[0]} in a second, at most {impatient[1]:.1f} s apart")
    as_found = times[1] > 0.9 and most_in_a_second(times) >= 19
    return as_found and patient[0] <= 12 and impatient[0] >= 50 and impatient[1] > 5


sys.exit(not asyncio.run(main()))
PY
venv/bin/python run.py
