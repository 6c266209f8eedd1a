#!/usr/bin/env bash
# HAProxy 2.6.12 (Debian 12), with Python 3.11, 1 December 2026. Takes half a minute.
#
# Ten requests in ten seconds for each client, as in many guides: `stick-table .. store
# http_req_rate(10s)`, and 429 if the rate is above ten. A client sends ten, is quiet for 10.5 seconds
# and sends ten more. One would guess that all are admitted: of the last ten seconds there is no
# request. One is. The rate is not that of the last ten seconds: it is the count of the
# current period, and of the one before the share that a last ten seconds would overlap, as if its
# requests had been spread evenly. Half a second into the new period, the ten count for 9.5. After 15
# seconds about six are admitted, and ten only after 19. So a client that waits for as long as the
# documented period, or as a `Retry-After: 10` says, is denied, and its denied requests count too.
# The other way round, of nine requests that came all at once at the end of a period and one at its
# start, half are forgotten five seconds later: about five more are admitted, fourteen in six seconds.
# HAProxy's documentation calls it "the average incoming HTTP request rate over that period".
set -euo pipefail
command -v haproxy >/dev/null || { echo "install HAProxy (Debian: apt-get install haproxy)" >&2; exit 1; }
directory=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$directory"' EXIT
cd "$directory"
port=$(python3 -c 'import socket; print(socket.create_server(("127.0.0.1", 0)).getsockname()[1])')

cat >haproxy.cfg <<CONF
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
frontend service
    bind 127.0.0.1:$port
    stick-table type string size 1k expire 60s store http_req_rate(10s)
    http-request return status 204 if { path /up }
    http-request track-sc0 hdr(x-client)
    http-request deny deny_status 429 if { sc_http_req_rate(0) gt 10 }
    http-request return status 204
CONF
cat >run.py <<'PY'
import http.client
import sys
import time
from concurrent.futures import ThreadPoolExecutor


def status(client, path="/"):
    connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]))
    connection.request("GET", path, headers={"X-Client": client})
    return connection.getresponse().status


def admitted(client, requests):
    return [status(client) for _ in range(requests)].count(204)


def run(client, *steps):
    """How many of so many requests are admitted, each after a time."""
    seen = []
    start = time.monotonic()
    for seconds, requests in steps:
        time.sleep(max(0, start + seconds - time.monotonic()))
        seen.append(admitted(client, requests))
    return seen


for _ in range(50):
    try:
        status("nobody", "/up")
        break
    except OSError:
        time.sleep(0.1)
cases = {
    "ten at once, and ten more after 10.5 s": [(0, 10), (10.5, 10)],
    "ten at once, and ten more after 15 s": [(0, 10), (15, 10)],
    "ten at once, and ten more after 20.5 s": [(0, 10), (20.5, 10)],
    "one, nine after 9.5 s, and ten more after 15 s": [(0, 1), (9.5, 9), (15, 10)],
}
with ThreadPoolExecutor(len(cases)) as pool:
    runs = [pool.submit(run, f"client-{number}", *steps) for number, steps in enumerate(cases.values())]
    seen = [one.result() for one in runs]
for name, counts in zip(cases, seen):
    print(f"{name}: {', '.join(map(str, counts))} admitted")
after, later, at_last, late = seen
sys.exit(not (after[0] == later[0] == at_last[0] == 10 and late[:2] == [1, 9]
              and after[1] <= 3 and 4 <= later[1] <= 7 and at_last[1] == 10 and 4 <= late[2] <= 7))
PY
haproxy -v | sed -n 1p
haproxy -f haproxy.cfg 2>errors.log &
python3 run.py "$port"
