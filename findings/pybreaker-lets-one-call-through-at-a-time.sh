#!/usr/bin/env bash
# pybreaker 1.4.1 (PyPI), with Python 3.11, 1 December 2026.
#
# A breaker around a call that takes 0.2 s, and ten threads. The README promises "Thread-safe". One
# would guess that the ten calls take 0.2 s together, as they do without a breaker, while the circuit
# is closed. They take two seconds: the breaker holds its lock for as long as the call lasts, so all
# threads of a service share one call at a time.
# When the circuit is open, calls are to "fail immediately". During the trial call after
# `reset_timeout` they wait for as long as that call takes, here a second, and then fail.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
python3 -m venv venv
venv/bin/pip --quiet --disable-pip-version-check install pybreaker==1.4.1

cat >run.py <<'PY'
import importlib.metadata
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from pybreaker import CircuitBreaker, CircuitBreakerError

THREADS = 10


def took(call):
    start = time.monotonic()
    try:
        call()
        return time.monotonic() - start, "answered"
    except Exception as error:
        return time.monotonic() - start, type(error).__name__


def together(call):
    start = time.monotonic()
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda _: call(), range(THREADS)))
    return time.monotonic() - start


def answers():
    time.sleep(0.2)


def fails(seconds):
    time.sleep(seconds)
    raise ConnectionError


print("pybreaker", importlib.metadata.version("pybreaker"))
plain, guarded = together(answers), together(CircuitBreaker()(answers))
print(f"{THREADS} threads, calls of 0.2 s: {plain:.1f} s without a breaker, {guarded:.1f} s with one")

circuit = CircuitBreaker(fail_max=1, reset_timeout=1)
opened = took(lambda: circuit.call(fails, 0))[1]
at_once = took(lambda: circuit.call(fails, 0))
time.sleep(1.1)
with ThreadPoolExecutor(2) as pool:
    trial = pool.submit(took, lambda: circuit.call(fails, 1))
    time.sleep(0.2)
    meanwhile = pool.submit(took, lambda: circuit.call(fails, 0)).result()
print(f"open: the next call ends after {at_once[0]:.1f} s: {at_once[1]}")
print(f"during the trial call: after {meanwhile[0]:.1f} s: {meanwhile[1]}")
refused = CircuitBreakerError.__name__
as_found = opened == at_once[1] == meanwhile[1] == refused and at_once[0] < 0.1 and meanwhile[0] > 0.6
sys.exit(not (as_found and plain < 1 and guarded > 1.8))
PY
venv/bin/python run.py
