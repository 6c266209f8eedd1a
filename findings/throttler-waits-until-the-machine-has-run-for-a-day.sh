#!/usr/bin/env bash
# throttler 1.2.3 (PyPI), with Python 3.11 and an event loop whose clock the script sets,
# 1 December 2026.
#
# A hundred calls a day: `Throttler(rate_limit=100, period=86_400)`. One would guess that the first
# hundred pass at once. On a machine that was started an hour ago they wait for 23 hours: the
# limiter begins as if a hundred calls had been made at 0 on the monotonic clock, and on Linux that
# clock counts from the machine's start. A day after the start they pass at once. After a restart of
# the machine, the wait is as long as the period, so limits of an hour and of a day stop a service
# that begins with its machine.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
python3 -m venv venv
venv/bin/pip --quiet --disable-pip-version-check install throttler==1.2.3

cat >run.py <<'PY'
import asyncio, importlib.metadata, sys, time

import throttler

HOUR = 3600


class VirtualLoop(asyncio.SelectorEventLoop):
    """Instead of waiting for the next timer, sets its clock a little past it."""

    def __init__(self, now):
        super().__init__()
        self.now = now

    def time(self):
        return self.now

    def _run_once(self):
        if not self._ready and self._scheduled:
            self.now = max(self.now, self._scheduled[0]._when + 0.001)
        super()._run_once()


def waits(uptime, calls=100):
    loop = VirtualLoop(uptime)
    real, time.monotonic = time.monotonic, loop.time
    seen = []

    async def run():
        limit = throttler.Throttler(rate_limit=100, period=24 * HOUR)
        for _ in range(calls):
            start = loop.time()
            async with limit:
                seen.append(round((loop.time() - start) / HOUR, 2))

    loop.run_until_complete(run())
    loop.close()
    time.monotonic = real
    return seen


print("throttler", importlib.metadata.version("throttler"))
seen = {}
for hours in (0, 1, 12, 25):
    first, *others = waits(hours * HOUR)
    seen[hours] = first, max(others)
    print(f"machine up for {hours:2} h: the first call waits for {first} h, the next 99 for {max(others)} h")
sys.exit(seen != {0: (24, 0), 1: (23, 0), 12: (12, 0), 25: (0, 0)})
PY
venv/bin/python run.py
