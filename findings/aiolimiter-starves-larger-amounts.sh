#!/usr/bin/env bash
# aiolimiter (PyPI) 1.3.0, with Python 3.11, 30 November 2026.
#
# A bucket of 10 a second, emptied. One task waits for 5, then tasks that wait for 1 each arrive for
# five seconds, a little faster than they can be served. One would guess that the first to come is
# served first, after half a second, as asyncio's semaphores and locks do. It is served last, when all
# smaller ones that came seconds later are done: those who wait are ordered by amount, and only then by
# arrival. While small amounts keep coming, it waits.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
python3 -m venv "$directory/venv"
"$directory/venv/bin/pip" --quiet install aiolimiter==1.3.0

cat >"$directory/run.py" <<'PY'
import asyncio
import importlib.metadata
import sys

from aiolimiter import AsyncLimiter

SMALL = 62


async def main():
    limiter = AsyncLimiter(10, 1)
    await limiter.acquire(10)
    served = []

    async def call(name, amount):
        await limiter.acquire(amount)
        served.append(name)

    tasks = [asyncio.create_task(call("the first, of 5", 5))]
    for number in range(SMALL):
        await asyncio.sleep(0.08)
        tasks.append(asyncio.create_task(call(number, 1)))
    await asyncio.gather(*tasks)
    place = served.index("the first, of 5") + 1
    print("aiolimiter", importlib.metadata.version("aiolimiter"))
    print(f"of {len(served)} tasks, the first to wait is served as number {place}")
    sys.exit(place < SMALL)


asyncio.run(main())
PY
"$directory/venv/bin/python" "$directory/run.py"
