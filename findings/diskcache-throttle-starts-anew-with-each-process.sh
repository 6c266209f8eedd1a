#!/usr/bin/env bash
# diskcache 5.6.3 (PyPI), with Python 3.11, 1 December 2026.
#
# `@throttle(cache, 3, 3600)`: three calls an hour, counted in a cache on disk. The README offers
# "cross-process throttling". One would guess that a script that calls the function once, and is
# started ten times, gets three calls through and waits before the fourth. All ten pass at once:
# applying the decorator sets the count in the cache back to three. So each process that is started
# or reloads the module refills the bucket for all that share it. Within a process, the fourth waits.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
python3 -m venv venv
venv/bin/pip --quiet --disable-pip-version-check install diskcache==5.6.3

cat >job.py <<'PY'
import sys
import time

import diskcache

start = time.monotonic()


def give_up(seconds):
    print(f"waits for {seconds:.0f} s", flush=True)
    sys.exit()


@diskcache.throttle(diskcache.Cache(sys.argv[1]), 3, 3600, name="job", sleep_func=give_up)
def job():
    print("passes", flush=True)


for _ in range(int(sys.argv[2])):
    job()
PY
venv/bin/python -c 'import diskcache; print("diskcache", diskcache.__version__)'
one=$(venv/bin/python job.py "$directory/one" 10 | sort | uniq -c)
ten=$(for _ in $(seq 10); do venv/bin/python job.py "$directory/ten" 1; done | sort | uniq -c)
echo "one process, ten calls:" $one
echo "ten processes, one call each:" $ten
[[ $one =~ ^\ *3\ passes ]] && [[ $one =~ "waits for 1200 s" ]] && [[ $ten =~ ^\ *10\ passes$ ]]
