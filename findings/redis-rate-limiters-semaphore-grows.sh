#!/usr/bin/env bash
# redis-rate-limiters 0.5.0 (PyPI; redis 8.1.0) with Redis 7.0.15, with Python 3.11, 1 December 2026.
# Takes half a minute.
#
# A semaphore for one job at a time, `SyncSemaphore(capacity=1, expiry=1)`; its README sets the expiry
# "to prevent deadlocks", and 30 seconds are the default. A job takes longer than the expiry, and the
# next one begins meanwhile. One would guess that there is room for one again when both have ended.
# There is room for two, and for one more after each further job that takes too long: the semaphore is
# a list of permits in Redis, the expiry deletes the list and makes a new, full one, and a job that
# ends puts a permit back, whatever list it came from. They stay until no job comes for an expiry.
set -euo pipefail
command -v redis-server >/dev/null || { echo "install redis-server (Debian: apt-get install redis-server)" >&2; exit 1; }
directory=$(mktemp -d)
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$directory"' EXIT
cd "$directory"
python3 -m venv venv
venv/bin/pip --quiet --disable-pip-version-check install redis-rate-limiters==0.5.0 redis==8.1.0
redis-server --bind 127.0.0.1 --port "$port" --save '' --dir "$directory" >/dev/null &

cat >run.py <<'PY'
import importlib.metadata
import sys
import threading
import time

import redis
from limiters import SyncSemaphore

client = redis.Redis(port=int(sys.argv[1]))
while True:
    try:
        client.ping()
        break
    except redis.ConnectionError:
        time.sleep(0.1)


def job(seconds, running=None):
    with SyncSemaphore(connection=client, name="job", capacity=1, expiry=1):
        if running is not None:
            running.append(+1)
        time.sleep(seconds)
        if running is not None:
            running.append(-1)


def start(*arguments):
    thread = threading.Thread(target=job, args=arguments)
    thread.start()
    return thread


def at_once():
    """The most of ten short jobs that run at the same time."""
    running = []
    threads = [start(0.1, running) for _ in range(10)]
    for thread in threads:
        thread.join()
    return max(sum(running[:end]) for end in range(1, len(running) + 1))


print("redis-rate-limiters", importlib.metadata.version("redis-rate-limiters"))
seen = [at_once()]
print(f"capacity 1; jobs at the same time: {seen[0]}")
for slow in range(1, 4):
    permits = [start(2) for _ in range(seen[-1])]
    time.sleep(1.5)
    permits.append(start(1))
    for thread in permits:
        thread.join()
    seen.append(at_once())
    print(f"after {slow} rounds in which jobs took longer than the expiry: {seen[-1]}")
sys.exit(seen != [1, 2, 3, 4])
PY
venv/bin/python run.py "$port"
