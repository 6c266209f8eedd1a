#!/usr/bin/env bash
# arate-limit 1.2.2 (PyPI; redis 8.1.0) with Redis 7.0.15, with Python 3.11, 30 November 2026.
#
# `RedisSlidingWindowRateLimiter(event_count=5, time_window=3600)`: five an hour. One would guess that
# the sixth call waits for an hour. A thousand calls pass at once. `slack`, an "additional allowance
# for brief bursts", is 10 by default, and the script lets a call pass while fewer than `slack` of the
# noted calls lie within the last second. A call that passes by that is not noted. So a limit below
# the slack never holds, and any other only while its calls are a second old: with 100 an hour, the
# hundred and first waits, and a second later all pass again. With `slack=0` the limit holds.
set -euo pipefail
command -v redis-server >/dev/null || { echo "install redis-server (Debian: apt-get install redis-server)" >&2; exit 1; }
directory=$(mktemp -d)
python3 -m venv "$directory/venv"
"$directory/venv/bin/pip" --quiet --disable-pip-version-check install arate-limit==1.2.2 redis==8.1.0
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
redis-server --bind 127.0.0.1 --port "$port" --save '' --dir "$directory" >/dev/null &
trap 'kill %1; rm -rf "$directory"' EXIT
sleep 1

cat >"$directory/run.py" <<'PY'
import asyncio
import importlib.metadata
import sys

from arate_limit import RedisSlidingWindowRateLimiter
from redis.asyncio import Redis

OFFERED = 1000


async def passed(limiter):
    """How many calls pass until one waits for five seconds."""
    for count in range(OFFERED):
        try:
            await asyncio.wait_for(limiter.wait(), 5)
        except TimeoutError:
            return count
    return OFFERED


async def main():
    print("arate-limit", importlib.metadata.version("arate-limit"))
    redis = Redis(port=int(sys.argv[1]))
    seen = []
    for limit, options in ((5, {}), (100, {}), (5, {"slack": 0}), (100, {"slack": 0})):
        limiter = RedisSlidingWindowRateLimiter(redis, event_count=limit, time_window=3600, **options)
        at_once = await passed(limiter)
        await asyncio.sleep(1.5)
        seen.append((at_once, await passed(limiter)))
        print(f"{limit:3} an hour {str(options or ''):12} of {OFFERED} calls pass {at_once}; a second later {seen[-1][1]}")
    await redis.aclose()
    sys.exit(seen != [(OFFERED, OFFERED), (100, OFFERED), (5, 0), (100, 0)])


asyncio.run(main())
PY
"$directory/venv/bin/python" "$directory/run.py" "$port"
