#!/usr/bin/env bash
# requests-ratelimiter 0.10.0 (PyPI; requests 2.34.2, pyrate-limiter 4.5.1), with Python 3.11,
# 30 November 2026. Takes a minute.
#
# A session of 60 requests a minute. Its second request is answered with 429 and `Retry-After: 1`. One
# would guess that the third leaves a second later, or at once, as 58 are left. It leaves a minute
# later: each 429 fills the session's own bucket with requests that were never sent, and the field is
# not read. By the source, a session with `per_hour` alone pauses for an hour.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
python3 -m venv environment
environment/bin/pip install --quiet --disable-pip-version-check requests-ratelimiter==0.10.0 requests==2.34.2 \
    pyrate-limiter==4.5.1

cat >run.py <<'PY'
import sys, threading, time
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version

from requests_ratelimiter import LimiterSession

arrivals = []


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        arrivals.append(time.monotonic())
        is_denied = len(arrivals) == 2
        self.send_response(429 if is_denied else 200)
        if is_denied:
            self.send_header("Retry-After", "1")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments):
        pass


server = HTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
session = LimiterSession(per_minute=60)
answers = [session.get(f"http://127.0.0.1:{server.server_port}/").status_code for _ in range(3)]
gaps = [round(later - earlier, 1) for earlier, later in zip(arrivals, arrivals[1:])]
print("requests-ratelimiter", version("requests-ratelimiter"), answers, "seconds between them:", gaps)
sys.exit(0 if answers == [200, 429, 200] and gaps[0] < 10 and gaps[1] > 55 else 1)
PY
environment/bin/python run.py
