#!/usr/bin/env bash
# celery 5.7.0 (PyPI; kombu 5.7.0, redis 8.1.0) with Redis 7.0.15 as its broker, with Python 3.11,
# 30 November 2026.
#
# A task of one an hour. Four are sent: the first runs, three wait. Then `control.rate_limit` raises
# the rate to 100 a second, and four more are sent. One would guess that the three run at once, and
# then the new ones. The new ones overtake, and the three still wait, an hour for each: the command
# makes a new bucket, and those who wait stay in the old one, at the old rate.
# It makes a new one for every task, so a change of another task's rate lets one more call through,
# while the old bucket goes on as well.
set -euo pipefail
command -v redis-server >/dev/null || { echo "install redis-server (Debian: apt-get install redis-server)" >&2; exit 1; }
directory=$(mktemp -d)
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$directory"' EXIT
cd "$directory"
python3 -m venv venv
venv/bin/pip --quiet --disable-pip-version-check install 'celery[redis]==5.7.0' kombu==5.7.0 redis==8.1.0
redis-server --bind 127.0.0.1 --port "$port" --save '' --dir "$directory" >/dev/null &

cat >tasks.py <<'PY'
import os

from celery import Celery

app = Celery("tasks", broker=os.environ["BROKER"])
app.conf.worker_prefetch_multiplier = 50


def note(call):
    with open("ran", "a") as ran:
        print(call, file=ran)


@app.task(rate_limit="1/h")
def raised(call):
    note(call)


@app.task(rate_limit="1/h")
def untouched(call):
    note(call)
PY
cat >run.py <<'PY'
import importlib.metadata
import sys
import time

from tasks import app, raised, untouched


def ran():
    try:
        return open("ran").read().split()
    except FileNotFoundError:
        return []


def wait_for(condition):
    deadline = time.monotonic() + 40
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)


wait_for(lambda: app.control.ping(timeout=1))
first, later = [f"raised-{n}" for n in range(4)], [f"raised-{n}" for n in range(4, 8)]
others = [f"untouched-{n}" for n in range(4)]
for call in first:
    raised.delay(call)
for call in others:
    untouched.delay(call)
wait_for(lambda: {first[0], others[0]} <= set(ran()))
time.sleep(2)
print("celery", importlib.metadata.version("celery"), "at one an hour:", *ran())
before = ran()
print(app.control.rate_limit("tasks.raised", "100/s", reply=True, timeout=5))
for call in later:
    raised.delay(call)
untouched.delay("untouched-4")
wait_for(lambda: set(later) | {"untouched-4"} <= set(ran()))
time.sleep(2)
after = ran()[len(before):]
print("within seconds after `raised` got 100 a second:", *after)
print("still waiting:", *(call for call in first + others if call not in ran()))
sys.exit(not (sorted(before) == [first[0], others[0]] and sorted(after) == later + ["untouched-4"]))
PY
export BROKER="redis://127.0.0.1:$port/0"
venv/bin/celery --app tasks worker --pool solo --loglevel error --without-gossip --without-mingle >worker.log 2>&1 &
venv/bin/python run.py
