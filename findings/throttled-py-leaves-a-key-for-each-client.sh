#!/usr/bin/env bash
# throttled-py (PyPI) 3.5.0 with redis-py 8.1.0 and Redis 7.0, with Python 3.11, 30 November 2026.
#
# Five algorithms over Redis, a limit of 30 a minute, and clients that come once. One would guess that
# every key expires, as they do for four of the five. The leaking bucket sets the expiry before it
# writes the key, so at the first call there is nothing to expire: the key of a client that never comes
# back stays for ever. A second call of the same client mends it.
set -euo pipefail
command -v redis-server >/dev/null || { echo "install redis-server (Debian: apt-get install redis-server)" >&2; exit 1; }
directory=$(mktemp -d)
python3 -m venv "$directory/venv"
"$directory/venv/bin/pip" --quiet install throttled-py==3.5.0 redis==8.1.0
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
redis-server --bind 127.0.0.1 --port "$port" --save '' --dir "$directory" >/dev/null &
trap 'kill %1; rm -rf "$directory"' EXIT
sleep 1

cat >"$directory/run.py" <<'PY'
import importlib.metadata
import sys

import redis
from throttled import Throttled, rate_limiter, store

print("throttled-py", importlib.metadata.version("throttled-py"))
server = redis.Redis(port=int(sys.argv[1]))
immortal = {}
for algorithm in ("fixed_window", "sliding_window", "token_bucket", "leaking_bucket", "gcra"):
    shared = store.RedisStore(server=f"redis://127.0.0.1:{sys.argv[1]}/0")
    throttle = Throttled(using=algorithm, quota=rate_limiter.per_min(30, burst=30), store=shared)
    for calls in (1, 2):
        server.flushall()
        for client in range(10):
            for _ in range(calls):
                throttle.limit(f"client {client}")
        immortal[algorithm, calls] = sum(server.ttl(key) == -1 for key in server.keys())
        print(f"{algorithm:16} 10 clients, {calls} call(s) each: {immortal[algorithm, calls]} keys without an expiry")
sys.exit(immortal != {case: 10 if case == ("leaking_bucket", 1) else 0 for case in immortal})
PY
"$directory/venv/bin/python" "$directory/run.py" "$port"
