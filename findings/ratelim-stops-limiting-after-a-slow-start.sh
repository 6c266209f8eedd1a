#!/usr/bin/env bash
# ratelim 0.1.6 (PyPI), with Python 3.11, 1 December 2026.
#
# At most three calls in two seconds: `@ratelim.greedy(3, 2)`. Two calls, three seconds without any,
# then a thousand. One would guess that the thousand take eleven minutes. They take no time at all:
# the count is set back to 0 only after a sleep, and it sleeps only if the limit is reached within
# two seconds of the count's start. Here it is reached later, so the decorator never sleeps again. A
# function that is called slowly at first is not limited for the rest of the process.
# Called ten times at once, it keeps to the limit.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
python3 -m venv venv
venv/bin/pip --quiet --disable-pip-version-check install ratelim==0.1.6

cat >run.py <<'PY'
import importlib.metadata, sys, time

import ratelim

print("ratelim", importlib.metadata.version("ratelim"))


def seconds(pause, calls):
    @ratelim.greedy(3, 2)
    def call():
        pass

    if pause:
        call()
        call()
        time.sleep(pause)
    start = time.monotonic()
    for _ in range(calls):
        call()
    return time.monotonic() - start


at_once = seconds(0, 10)
after_a_slow_start = seconds(3, 1_000)
print(f"10 calls at once: {at_once:.1f} s")
print(f"2 calls, a pause of 3 s, then 1,000 calls: {after_a_slow_start:.1f} s")
sys.exit(not (at_once > 3 and after_a_slow_start < 10))
PY
venv/bin/python run.py
