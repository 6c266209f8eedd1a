#!/usr/bin/env bash
# httpx-retries (PyPI) 0.6.0 with httpx 0.28.1, 29 November 2026.
#
# By default the transport repeats a 429, up to ten times, and honours `Retry-After`. Without that
# field one would guess a backoff, as its documentation speaks of one. The factor's default is 0:
# all ten repetitions come within a fraction of a second, to a server that has just said that it is
# asked too often.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
python3 -m venv venv
venv/bin/pip --quiet --disable-pip-version-check install httpx-retries==0.6.0 httpx==0.28.1

cat >run.py <<'PY'
import sys, threading, time
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
from httpx_retries import RetryTransport

arrivals = []


class TooMany(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        arrivals.append(time.monotonic())
        self.send_response(429)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", 0), TooMany)
threading.Thread(target=server.serve_forever, daemon=True).start()
with httpx.Client(transport=RetryTransport(), trust_env=False) as client:
    status = client.get(f"http://127.0.0.1:{server.server_port}/").status_code
took = arrivals[-1] - arrivals[0]
print(f"status {status} after {len(arrivals)} requests in {took * 1000:.0f} ms")
sys.exit(not (status == 429 and len(arrivals) == 11 and took < 1))
PY
venv/bin/python run.py
