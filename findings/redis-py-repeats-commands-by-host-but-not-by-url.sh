#!/usr/bin/env bash
# redis-py 8.1.0 (PyPI) with Redis 7.0.15, with Python 3.11, 30 November 2026.
#
# `Redis(port=..)` and `Redis.from_url("redis://..")`, both with all defaults, and a server that
# stands still for seven seconds, as while its machine is moved, at an `INCR` of a new key. One would
# guess the same of both: the answer 1, or an error. By URL it is a `TimeoutError` after five seconds,
# and the server has counted 1. By host the answer is 2: this client sends the command again on
# another connection, up to ten times, and the server finds both when it goes on. The retry and the
# ten are a default of `Redis(..)` alone. A limiter that counts with this client by host can therefore
# count a call twice. `retry=Retry(NoBackoff(), 0)` keeps it from that.
set -euo pipefail
command -v redis-server >/dev/null || { echo "install redis-server (Debian: apt-get install redis-server)" >&2; exit 1; }
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
python3 -m venv "$directory/venv"
"$directory/venv/bin/pip" --quiet --disable-pip-version-check install redis==8.1.0

cat >"$directory/run.py" <<'PY'
import importlib.metadata
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
server = subprocess.Popen(
    ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", sys.argv[1]],
    stdout=subprocess.DEVNULL,
)


def count_while_it_stands_still(client, key):
    """What `INCR` answers, and what the server counted."""
    client.ping()
    os.kill(server.pid, signal.SIGSTOP)
    going_on = threading.Timer(7, os.kill, (server.pid, signal.SIGCONT))
    going_on.start()
    try:
        answer = client.incr(key)
    except redis.RedisError as error:
        answer = type(error).__name__
    going_on.join()
    time.sleep(1)
    return answer, int(redis.Redis(port=port).get(key))


try:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            redis.Redis(port=port).ping()
            break
        except redis.ConnectionError:
            time.sleep(0.1)
    print("redis-py", importlib.metadata.version("redis"))
    seen = {}
    for name, client in {
        "by URL": redis.Redis.from_url(f"redis://127.0.0.1:{port}"),
        "by host": redis.Redis(port=port),
        "by host, no retry": redis.Redis(port=port, retry=Retry(NoBackoff(), 0)),
    }.items():
        seen[name] = count_while_it_stands_still(client, name)
        print(f"{name:18} INCR answers {seen[name][0]}, the server counted {seen[name][1]}")
finally:
    server.send_signal(signal.SIGCONT)
    server.terminate()
    server.wait()
sys.exit(list(seen.values()) != [("TimeoutError", 1), (2, 2), ("TimeoutError", 1)])
PY
"$directory/venv/bin/python" "$directory/run.py" "$directory"
