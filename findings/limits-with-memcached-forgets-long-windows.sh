#!/usr/bin/env bash
# limits (PyPI) 5.8.0 with pymemcache 4.0.0 and memcached 1.6.18, with Python 3.11, 30 November 2026.
#
# limits is what flask-limiter and slowapi count with. One would guess that "2/year" admits two calls
# whatever the storage, as it does in memory. Through Memcached it admits all: the window's length
# goes there as a relative expiry, and Memcached takes whatever is above 30 days for a date, in 1970.
# So each hit begins a new window, and the statistics say that nothing is used. The sliding window
# counter keeps two windows, so it forgets "2/month" and "2/16 day" too; a fixed window of 30 days
# holds.
set -euo pipefail
command -v memcached >/dev/null || { echo "install memcached (Debian: apt-get install memcached)" >&2; exit 1; }
directory=$(mktemp -d)
python3 -m venv "$directory/venv"
"$directory/venv/bin/pip" --quiet install limits==5.8.0 pymemcache==4.0.0
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
memcached -u nobody -l 127.0.0.1 -p "$port" -U 0 -m 16 &
trap 'kill %1; rm -rf "$directory"' EXIT
sleep 1
memcached --version

cat >"$directory/run.py" <<'PY'
import importlib.metadata
import sys

import limits
from limits.storage import MemcachedStorage, MemoryStorage
from limits.strategies import FixedWindowRateLimiter, SlidingWindowCounterRateLimiter

print("limits", importlib.metadata.version("limits"))
storages = {"memory": MemoryStorage(), "memcached": MemcachedStorage(f"memcached://127.0.0.1:{sys.argv[1]}")}
admitted = {}
for strategy in (FixedWindowRateLimiter, SlidingWindowCounterRateLimiter):
    for text in ("2/day", "2/month", "2/year"):
        for name, storage in storages.items():
            limit, limiter = limits.parse(text), strategy(storage)
            hits = sum(limiter.hit(limit, strategy.__name__, text) for _ in range(6))
            admitted[strategy.__name__, text, name] = hits
            left = limiter.get_window_stats(limit, strategy.__name__, text).remaining
            print(f"{strategy.__name__:32} {text:8} {name:10} {hits} of 6 hits admitted, {left} left")

fixed, sliding = "FixedWindowRateLimiter", "SlidingWindowCounterRateLimiter"
forgotten = {(fixed, "2/year"), (sliding, "2/month"), (sliding, "2/year")}
expected = {case: 6 if case[2] == "memcached" and case[:2] in forgotten else 2 for case in admitted}
sys.exit(admitted != expected)
PY
"$directory/venv/bin/python" "$directory/run.py" "$port"
