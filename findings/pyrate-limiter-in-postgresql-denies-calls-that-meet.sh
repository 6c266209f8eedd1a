#!/usr/bin/env bash
# pyrate-limiter 4.5.1 (PyPI; psycopg 3.3.9, psycopg-pool 3.3.3) with PostgreSQL 15, with Python 3.11,
# 30 November 2026.
#
# A limit of a million an hour in PostgreSQL, and eight threads that call without waiting
# (`blocking=False`), 50 times each. One would guess that all 400 are admitted. Most are denied: each
# call locks the table with `NOWAIT`, and a lock that another call holds is a denial.
# One thread alone is denied now and then as well, when the limiter's own cleaner is at work.
# A call made while another transaction analyzes the table is denied too. `VACUUM`, autovacuum's too,
# takes the same lock, so every call is denied for as long as that cleans the table.
set -euo pipefail
export PATH="$PATH:$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | tail -n 1)"
command -v initdb >/dev/null || { echo "install postgresql (Debian: apt-get install postgresql)" >&2; exit 1; }
directory=$(mktemp -d)
as_user=()
[ "$(id -u)" != 0 ] || { as_user=(runuser -u nobody --); chown nobody "$directory"; }
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cd "$directory"
trap '"${as_user[@]}" pg_ctl -D data -m immediate stop >/dev/null 2>&1 || true; rm -rf "$directory"' EXIT
"${as_user[@]}" initdb -D data -U postgres -A trust >/dev/null
"${as_user[@]}" pg_ctl -D data -w -l log -o "-p $port -k '$directory' -c listen_addresses=127.0.0.1" start >/dev/null
python3 -m venv venv
venv/bin/pip --quiet --disable-pip-version-check install pyrate-limiter==4.5.1 'psycopg[binary]==3.3.9' psycopg-pool==3.3.3

cat >run.py <<'PY'
import importlib.metadata
import sys
import threading

import psycopg
from psycopg_pool import ConnectionPool
from pyrate_limiter import Duration, Limiter, Rate
from pyrate_limiter.buckets import PostgresBucket

THREADS, CALLS = 8, 50
server = f"host=127.0.0.1 port={sys.argv[1]} user=postgres dbname=postgres"
pool = ConnectionPool(server, min_size=THREADS + 1, open=True)
pool.wait()


def limiter():
    return Limiter(PostgresBucket(pool, "calls", [Rate(1_000_000, Duration.HOUR)]))


def admitted(each, calls):
    return sum(each.try_acquire("a client", blocking=False) for _ in range(calls))


print("pyrate-limiter", importlib.metadata.version("pyrate-limiter"))
limiters = [limiter() for _ in range(THREADS)]
alone = admitted(limiters[0], CALLS)
counts, barrier = [0] * THREADS, threading.Barrier(THREADS)


def call(number):
    barrier.wait()
    counts[number] = admitted(limiters[number], CALLS)


threads = [threading.Thread(target=call, args=(number,)) for number in range(THREADS)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
with psycopg.connect(server) as other:
    other.execute("ANALYZE ratelimit___calls")
    analyzed = admitted(limiters[0], CALLS)
after = admitted(limiters[0], CALLS)
print(f"one thread:               {alone} of {CALLS} calls admitted")
print(f"{THREADS} threads:                {sum(counts)} of {THREADS * CALLS}")
print(f"one, during an ANALYZE:   {analyzed} of {CALLS}")
print(f"one, after it:            {after} of {CALLS}")
as_found = min(alone, after) > CALLS * 0.8 and analyzed == 0
sys.exit(not (as_found and sum(counts) < THREADS * CALLS * 0.8))
PY
venv/bin/python run.py "$port"
