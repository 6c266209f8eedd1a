#!/usr/bin/env bash
# throttled-py (PyPI) 3.5.0, with Python 3.11, 30 November 2026.
#
# A token bucket of 9 per 10 seconds with a burst of 2, in memory, and a client that calls every 1.5
# seconds: 6.7 per 10 seconds. One would guess that none of its calls is denied: between two calls 1.35
# tokens flow in. It is denied within ten seconds. The bucket reads the clock in whole seconds and
# drops what is not a whole token at each admitted call: after a second by that clock nothing flows
# in, after two a single token. The same quota by the same library's `gcra` admits all calls.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
python3 -m venv "$directory/venv"
"$directory/venv/bin/pip" --quiet install throttled-py==3.5.0

cat >"$directory/run.py" <<'PY'
import importlib.metadata
import sys
import time
from datetime import timedelta

from throttled import Throttled, rate_limiter

print("throttled-py", importlib.metadata.version("throttled-py"))
quota = rate_limiter.per_duration(timedelta(seconds=10), limit=9, burst=2)
throttles = {algorithm: Throttled(using=algorithm, quota=quota) for algorithm in ("token_bucket", "gcra")}
denied = dict.fromkeys(throttles, 0)
for call in range(14):
    for algorithm, throttle in throttles.items():
        denied[algorithm] += throttle.limit("a client").limited
    time.sleep(1.5)
for algorithm, count in denied.items():
    print(f"{algorithm:12} 14 calls, one each 1.5 s, at 9 per 10 s: {count} denied")
sys.exit(not (denied["token_bucket"] > 0 and denied["gcra"] == 0))
PY
"$directory/venv/bin/python" "$directory/run.py"
