#!/usr/bin/env bash
# huey 3.5.4 (PyPI), with Python 3.11, 1 December 2026. Takes half a minute.
#
# Tasks that call a service, ten each two seconds, `huey.rate_limit('service', limit=10, per=2)`. A
# hundred are enqueued. One would guess that they run in the order in which they came, and that each
# is tried once or twice. They are tried 550 times: a task above the limit is put off to the end of
# the period, all of them are, and then all run again and all but ten are denied again. With n tasks
# that is n² / 20 tries, 50,500 for a thousand.
# The order is by chance: tasks that are put off to the same moment are ordered by their random id.
# The first ten run first, and then any of the others, so a task may wait for the whole time that
# others have to, and one that came last may be next.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
python3 -m venv venv
venv/bin/pip --quiet --disable-pip-version-check install huey==3.5.4

cat >run.py <<'PY'
import importlib.metadata
import logging
import sys
import threading
import time

from huey import MemoryHuey

TASKS = 100
huey = MemoryHuey(results=False)
logging.getLogger("huey").setLevel(logging.ERROR)
tried, called = [], []
done = threading.Event()


@huey.task()
def task(number):
    tried.append(number)
    with huey.rate_limit("service", limit=10, per=2):
        called.append(number)
        if len(called) == TASKS:
            done.set()


# Begins with a period, which is aligned to the clock.
time.sleep(2 - time.time() % 2 + 0.1)
for number in range(TASKS):
    task(number)
consumer = huey.create_consumer(workers=1, periodic=False)
consumer.start()
done.wait(60)
consumer.stop()
print("huey", importlib.metadata.version("huey"), f"{len(called)} tasks in {len(tried)} tries, in this order:")
print(*called)
print("places of the tasks that came eleventh to twentieth:", *(called.index(number) + 1 for number in range(10, 20)))
in_order = called == list(range(TASKS))
sys.exit(not (len(called) == TASKS and called[:10] == list(range(10)) and not in_order and 500 <= len(tried) <= 800))
PY
venv/bin/python run.py
