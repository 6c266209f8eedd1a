#!/usr/bin/env bash
# rush 2021.4.0 (PyPI), with Python 3.11, 30 November 2026.
#
# `Quota.per_hour(n)` with its GCRA limiter. One would guess n admissions at once and one more each
# n-th of an hour. It admits n - 1 at once. With one an hour it therefore never admits a call: each
# denial says "retry after an hour", and an hour later the next one does. By the source, a call is
# admitted if at least half a call remains after it, where GCRA asks for none. The remaining count is
# rounded to the nearest whole number, and 0 counts as denied.
# The same package's `PeriodicLimiter` admits n, and does not compare a first call's cost with n: a
# call of 50 at five an hour is admitted, and -45 remain.
# The stores let a program bring its own clock; here it is a variable.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
python3 -m venv "$directory/venv"
"$directory/venv/bin/pip" --quiet --disable-pip-version-check install rush==2021.4.0

cat >"$directory/run.py" <<'PY'
import importlib.metadata
import sys
from datetime import datetime, timezone

from rush.limiters.gcra import GenericCellRatelimiter
from rush.limiters.periodic import PeriodicLimiter
from rush.quota import Quota
from rush.stores.dictionary import DictionaryStore
from rush.throttle import Throttle

print("rush", importlib.metadata.version("rush"))


class Store(DictionaryStore):
    now = datetime(2026, 11, 30, tzinfo=timezone.utc)

    def current_time(self, tzinfo=timezone.utc):
        return self.now


def at_once(limiter, limit):
    throttle = Throttle(limiter=limiter(Store()), rate=Quota.per_hour(limit))
    return sum(not throttle.check("a client", 1).limited for _ in range(limit + 5))


seen = {limiter: [at_once(limiter, limit) for limit in (1, 2, 5, 100)]
        for limiter in (GenericCellRatelimiter, PeriodicLimiter)}
for limiter, counts in seen.items():
    print(f"{limiter.__name__:24} 1, 2, 5 and 100 an hour: admitted at once {counts}")

store = Store()
throttle = Throttle(limiter=GenericCellRatelimiter(store), rate=Quota.per_hour(1))
denials = 0
for _ in range(24 * 365):
    answer = throttle.check("a client", 1)
    denials += answer.limited
    store.now += answer.retry_after
print(f"one an hour, called each time that the denial names, for a year: {denials} of {24 * 365} calls denied")

first = Throttle(limiter=PeriodicLimiter(Store()), rate=Quota.per_hour(5)).check("a client", 50)
print(f"PeriodicLimiter, five an hour, a first call of 50: limited {first.limited}, remaining {first.remaining}")
as_found = list(seen.values()) == [[0, 1, 4, 99], [1, 2, 5, 100]] and denials == 24 * 365
sys.exit(not (as_found and not first.limited and first.remaining == -45))
PY
"$directory/venv/bin/python" "$directory/run.py"
