#!/usr/bin/env bash
# urllib3 2.8.0, kubernetes 37.0.2 and requests 2.34.2 (all PyPI), with Python 3.11, 1 December 2026.
#
# `urllib3.request("GET", url, timeout=1)`, and a service that denies with 429 and `Retry-After: 2`.
# One would guess that the call returns the 429 at once, or gives up after a second. It returns after
# six seconds: by default urllib3 repeats a denied GET three times, waits as it is told each time, and
# no timeout counts the waits. With a `Retry-After` of a day it waits three times six hours, its
# longest wait, and all that time the thread is in a call that was given five seconds.
# A client that is built on it inherits that: the one of Kubernetes waits six seconds with
# `_request_timeout=1`. requests, which is built on urllib3 too, returns the 429 at once.
# `retries=False` keeps urllib3 from it.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
python3 -m venv venv
venv/bin/pip --quiet --disable-pip-version-check install urllib3==2.8.0 kubernetes==37.0.2 requests==2.34.2

cat >run.py <<'PY'
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from unittest import mock

import kubernetes.client
import requests
import urllib3

retry_after = "2"
count = 0


class Denies(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        global count
        count += 1
        self.send_response(429)
        self.send_header("Retry-After", retry_after)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


service = ThreadingHTTPServer(("127.0.0.1", 0), Denies)
threading.Thread(target=service.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{service.server_port}"


def by_kubernetes():
    configuration = kubernetes.client.Configuration(host=url)
    with kubernetes.client.ApiClient(configuration) as client:
        try:
            kubernetes.client.VersionApi(client).get_code(_request_timeout=1)
        except kubernetes.client.ApiException as error:
            return error.status


def run(name, call):
    global count
    count, start = 0, time.monotonic()
    status = call()
    took = time.monotonic() - start
    print(f"{name}: {status} after {took:.1f} s and {count} requests")
    return status, count, took


print("urllib3", version("urllib3"), "with a timeout of a second, and Retry-After: 2")
seen = [
    run("urllib3", lambda: urllib3.request("GET", url, timeout=1).status),
    run("urllib3, retries=False", lambda: urllib3.request("GET", url, timeout=1, retries=False).status),
    run("kubernetes", by_kubernetes),
    run("requests", lambda: requests.get(url, timeout=1).status_code),
]
retry_after = str(86_400)
with mock.patch("time.sleep") as sleep:
    assert urllib3.request("GET", url, timeout=5).status == 429
waits = [call.args[0] for call in sleep.call_args_list if call.args[0] > 60]
print("urllib3, a timeout of five seconds, Retry-After: 86400: it would sleep for", *waits, "seconds")
as_found = [(status, requests) for status, requests, _ in seen] == [(429, 4), (429, 1), (429, 4), (429, 1)]
as_found &= all((took > 5.9) == (requests == 4) for _, requests, took in seen)
sys.exit(not (as_found and waits == [21_600] * 3))
PY
venv/bin/python run.py
