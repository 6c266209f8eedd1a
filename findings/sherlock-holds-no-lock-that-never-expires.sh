#!/usr/bin/env bash
# sherlock 0.4.1 (PyPI; redis 8.1.0) with Redis 7.0.15, with Python 3.11, 1 December 2026.
#
# A distributed lock in Redis, `RedisLock(name, expire=..)`: a "float", "if explicitly set to `None`,
# lock will not expire". One would guess that a second client is denied while the first holds it, and
# that half a second expires after half a second. With a minute both are so. With `None` each client
# gets the lock at once: the script compares the text -1 with the number -1, which differ in Lua, so
# it goes on to `EXPIRE key -1`, and that deletes the key. With half a second, `acquire` raises an
# error of Redis, as `EXPIRE` takes whole seconds, but the key was set before: it never expires, the
# client does not own what it has locked, and nobody gets that lock any more.
set -euo pipefail
command -v redis-server >/dev/null || { echo "install redis-server (Debian: apt-get install redis-server)" >&2; exit 1; }
directory=$(mktemp -d)
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$directory"' EXIT
cd "$directory"
python3 -m venv venv
venv/bin/pip --quiet --disable-pip-version-check install sherlock==0.4.1 redis==8.1.0
redis-server --bind 127.0.0.1 --port "$port" --save '' --dir "$directory" >/dev/null &

cat >run.py <<'PY'
import importlib.metadata
import sys
import time

import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry
from sherlock import LockException, RedisLock

client = redis.Redis(port=int(sys.argv[1]), retry=Retry(ConstantBackoff(0.2), 50))


def attempt(call):
    try:
        return call()
    except (redis.ResponseError, LockException) as error:
        return type(error).__name__


print("sherlock", importlib.metadata.version("sherlock"), "Redis", client.info("server")["redis_version"])
seen = {}
for expire in (60, None, 0.5):
    first, second = (RedisLock(f"lock-{expire}", client=client, expire=expire) for _ in range(2))
    taken = attempt(lambda: first.acquire(blocking=False)), attempt(lambda: second.acquire(blocking=False))
    time.sleep(1)
    third = attempt(lambda: RedisLock(f"lock-{expire}", client=client, expire=60).acquire(blocking=False))
    seen[expire] = *taken, third, client.ttl(f"lock-{expire}")
    print(f"expire={expire}: first client: {taken[0]}, second: {taken[1]};"
          f" a third, a second later: {third}; the key's expiry: {seen[expire][3]} s")
    attempt(first.release), attempt(second.release)
expected = {60: (True, False, False), None: (True, True, True), 0.5: ("ResponseError", False, False)}
as_found = all(seen[expire][:3] == answers for expire, answers in expected.items())
sys.exit(not (as_found and 0 < seen[60][3] <= 60 and seen[0.5][3] == -1))
PY
venv/bin/python run.py "$port" 2>errors.log || { status=$?; cat errors.log >&2; exit $status; }
