#!/usr/bin/env bash
# nopanic 0.3.0 (PyPI), with Python 3.11 and an event loop whose clock the script sets, 1 December
# 2026.
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
import selectors
import sys

from nopanic import rate_limit


class Loop(asyncio.SelectorEventLoop):
    """An event loop that does not wait: its clock goes on to the next timer at once."""

    def __init__(self):
        super().__init__(selectors.SelectSelector())
        self.now = 0.0
        select = self._selector.select

        def skip(timeout=None):
            self.now += timeout or 0
            return select(0)

        self._selector.select = skip

    def time(self):
        return self.now


def limited():
    """A limited call, and when it ran."""
    clock = asyncio.get_running_loop().time
    times = []

    @rate_limit(10, 1.0, burst=1, clock=clock)
    async def call():
        times.append(clock())

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

    tasks = []
    for _ in range(callers):
        tasks.append(asyncio.create_task(caller()))
        await asyncio.sleep(0.01)
    await asyncio.gather(*tasks)
    return most_in_a_second(times), max(after - at for at, after in zip(times, times[1:]))


def run(scene):
    loop = Loop()
    try:
        return loop.run_until_complete(scene)
    finally:
        loop.close()


times, patient, impatient = run(ten_of_twenty_give_up()), run(crowd(500, 3600)), run(crowd(6000, 1))
print("nopanic", importlib.metadata.version("nopanic"), "ten a second, no bursts")
print("ten of twenty gave up, ten came; calls ran at", *(f"{at:.1f}" for at in times), "s")
print(f"patient callers: at most {patient[0]} in a second, at most {patient[1]:.1f} s apart")
print(f"impatient callers: at most {impatient[0]} in a second, at most {impatient[1]:.1f} s apart")
as_found = times[1] > 0.9 and most_in_a_second(times) >= 19
sys.exit(not (as_found and patient[0] <= 11 and impatient[0] >= 90 and impatient[1] > 5))
PY
venv/bin/python run.py
