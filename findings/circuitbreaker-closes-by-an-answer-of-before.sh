#!/usr/bin/env bash
# circuitbreaker 2.1.3 (PyPI), with Python 3.11, 1 December 2026.
#
# A breaker that opens at three failures in a row, for a minute. One slow call is under way; then
# three calls fail, and the circuit is open. One would guess that it stays open for the minute. The
# slow call comes back, and its answer, to a question from before the failures, closes the circuit.
# Of a service that fails all quick calls and answers one slow call in between, nothing is kept away.
# After the minute the README "allows one test-execution". A hundred calls that come together then
# are all let through to the service that may not have recovered: the state is looked at, not set.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
python3 -m venv venv
venv/bin/pip --quiet --disable-pip-version-check install circuitbreaker==2.1.3

cat >run.py <<'PY'
import asyncio
import importlib.metadata
import sys

from circuitbreaker import CircuitBreaker, CircuitBreakerError

RECOVERY = 60


def breaker(recovery):
    reached = []
    circuit = CircuitBreaker(failure_threshold=3, recovery_timeout=recovery)

    @circuit
    async def call(seconds, fails):
        reached.append(seconds)
        await asyncio.sleep(seconds)
        if fails:
            raise ConnectionError

    async def ended(seconds=0, fails=True):
        try:
            await call(seconds, fails)
            return "answered"
        except (ConnectionError, CircuitBreakerError) as error:
            return type(error).__name__

    return circuit, ended, reached


async def answer_of_before():
    circuit, ended, _ = breaker(RECOVERY)
    slow = asyncio.create_task(ended(0.5, fails=False))
    await asyncio.sleep(0.1)
    for _ in range(3):
        await ended()
    states = [circuit.state, await ended()]
    await slow
    return states + [circuit.state, await ended()]


async def trials(calls):
    circuit, ended, reached = breaker(recovery=1)
    for _ in range(3):
        await ended()
    await asyncio.sleep(1.1)
    reached.clear()
    before = circuit.state
    await asyncio.gather(*(ended(0.1) for _ in range(calls)))
    return before, len(reached)


states = asyncio.run(answer_of_before())
print("circuitbreaker", importlib.metadata.version("circuitbreaker"))
print(f"three failures: {states[0]}, the next call: {states[1]}")
print(f"half a second later, when the slow call came back: {states[2]}, the next call: {states[3]}")
state, through = asyncio.run(trials(100))
print(f"{state}: {through} of 100 calls that come together reach the service")
expected = ["open", "CircuitBreakerError", "closed", "ConnectionError"]
sys.exit(not (states == expected and (state, through) == ("half_open", 100)))
PY
venv/bin/python run.py
