#!/usr/bin/env bash
# dramatiq 2.2.1 with pylibmc (PyPI) and memcached 1.6.18, with Python 3.11, 1 December 2026.
#
# `ConcurrentRateLimiter(backend, key, limit=1)`, which its documentation calls a distributed mutex.
# While one worker holds it, another tries once and is denied. Then the first releases it. One would
# guess that it is free. With Redis and in memory it is. With Memcached nobody gets it any more:
# `incr` of the backend, "increment a key up to the given maximum", adds first and compares
# afterwards, and a denied worker does not take back what it added. Each attempt adds one more.
# In the same way a limit of 5 shrinks by one with each denial. By the source, this ends when the
# key expires, 15 minutes after it was made, even if somebody holds the mutex then.
set -euo pipefail
directory=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$directory"' EXIT
cd "$directory"
python3 -m venv venv
venv/bin/pip --quiet --disable-pip-version-check install dramatiq==2.2.1 pylibmc==1.6.3 redis==8.1.0
read -r cache store < <(python3 -c 'import socket
ports = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(port.getsockname()[1] for port in ports))')

cat >run.py <<'PY'
import sys, time
from contextlib import ExitStack

from dramatiq.rate_limits import ConcurrentRateLimiter
from dramatiq.rate_limits.backends import MemcachedBackend, RedisBackend, StubBackend

cache, store = sys.argv[1:]
backends = {
    "memory": StubBackend(),
    "Redis": RedisBackend(url=f"redis://127.0.0.1:{store}"),
    "Memcached": MemcachedBackend(servers=[f"127.0.0.1:{cache}"], binary=True),
}


def tries(limiter, times):
    """How many of so many attempts, one after the other, get a slot and give it back."""
    got = 0
    for _ in range(times):
        with limiter.acquire(raise_on_failure=False) as acquired:
            got += acquired
    return got


def held_together(limiter, attempts):
    """How many of so many attempts that overlap get a slot."""
    with ExitStack() as stack:
        return sum(stack.enter_context(limiter.acquire(raise_on_failure=False)) for _ in range(attempts))


seen = {}
for name, backend in backends.items():
    mutex = ConcurrentRateLimiter(backend, f"mutex-{time.time_ns()}", limit=1)
    before = tries(mutex, 3)
    with mutex.acquire():
        during = tries(mutex, 1)
    five = ConcurrentRateLimiter(backend, f"five-{time.time_ns()}", limit=5)
    seen[name] = before, during, tries(mutex, 3), held_together(five, 7), held_together(five, 5)
    print(f"{name:9} of 3 tries before: {before}; of 1 while it is held: {during}; of 3 afterwards: {seen[name][2]};"
          f" of 7 at a limit of 5: {seen[name][3]}; of 5 afterwards: {seen[name][4]}")
as_guessed = 3, 0, 3, 5, 5
sys.exit(seen != {"memory": as_guessed, "Redis": as_guessed, "Memcached": (3, 0, 0, 5, 3)})
PY
memcached -u root -l 127.0.0.1 -p "$cache" &
redis-server --port "$store" --save '' --dir "$directory" >/dev/null &
for port in "$cache" "$store"; do
    for _ in $(seq 600); do (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && break; sleep 0.1; done
done
memcached -V
redis-server --version
venv/bin/python run.py "$cache" "$store"
