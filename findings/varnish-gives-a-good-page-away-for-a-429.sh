#!/usr/bin/env bash
# Varnish 7.1.1 (Debian 12), with Python 3.11, 1 December 2026.
#
# A page is cached for a second, and Varnish may serve it for an hour more while it fetches a new one
# (`beresp.grace = 1h`). Meanwhile the service limits requests: it answers the fetch with 429. One
# would guess that clients get the old page for the hour, and that the service is asked by one fetch
# at a time. The first client gets it. The 429, which is not stored, still takes the place of the
# page, so all others get the 429. As it can't be cached, Varnish also passes each of their requests
# on: twenty that come together are twenty requests to the service that has just said that there are
# too many. With the old page they were one. When the service answers again, the page is cached again.
# `if (beresp.status == 429 && bereq.is_bgfetch) { return (abandon); }` keeps the page.
set -euo pipefail
command -v varnishd >/dev/null || { echo "install Varnish (Debian: apt-get install varnish)" >&2; exit 1; }
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
chmod 755 "$directory"
cd "$directory"

cat >run.py <<'PY'
import http.client
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CLIENTS = 20
denies = False
requests = []


class Service(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        requests.append(self.path)
        time.sleep(0.5)
        self.send_response(429 if denies else 200)
        self.send_header("Cache-Control", "no-store" if denies else "max-age=1")
        if denies:
            self.send_header("Retry-After", "10")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 2 * CLIENTS


service = Server(("127.0.0.1", 0), Service)
threading.Thread(target=service.serve_forever, daemon=True).start()


def get(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", path)
    return connection.getresponse().status


def statuses(port, path):
    """What clients get together, and the requests to the service."""
    before = len(requests)
    with ThreadPoolExecutor(CLIENTS) as pool:
        seen = [client.result() for client in [pool.submit(get, port, path) for _ in range(CLIENTS)]]
    time.sleep(1)
    return {status: seen.count(status) for status in set(seen)}, len(requests) - before


def run(name, rule):
    global denies
    with open(f"{name}.vcl", "w") as file:
        file.write(f"""vcl 4.1;
backend service {{ .host = "127.0.0.1"; .port = "{service.server_port}"; }}
sub vcl_backend_response {{ {rule} set beresp.grace = 1h; }}
""")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["varnishd", "-F", "-a", f"127.0.0.1:{port}", "-f", f"{sys.path[0]}/{name}.vcl"]
    varnish = subprocess.Popen(command + ["-n", f"{sys.path[0]}/{name}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            try:
                get(port, "/page")
                break
            except OSError:
                time.sleep(0.2)
        # The page is a second old now, and older.
        time.sleep(1.5)
        good = statuses(port, "/page")
        time.sleep(1.5)
        denies = True
        first = get(port, "/page")
        time.sleep(1.5)
        denied = statuses(port, "/page")
        denies = False
        return good, first, denied
    finally:
        varnish.terminate()
        varnish.wait()


as_it_is = run("plain", "")
abandons = run("abandons", "if (beresp.status == 429 && bereq.is_bgfetch) { return (abandon); }")
for name, (good, first, denied) in {"as it is": as_it_is, "with abandon": abandons}.items():
    print(f"{name}: {CLIENTS} clients and an old page: {good[0]}, requests to the service: {good[1]};",
          f"the service denies: the first gets {first}, {CLIENTS} others {denied[0]} by {denied[1]} requests")


def is_old_page(seen):
    """Clients that a busy machine spreads out may begin a second fetch."""
    return seen[0] == {200: CLIENTS} and seen[1] <= 4


as_found = all(is_old_page(good) and first == 200 for good, first, _ in (as_it_is, abandons))
sys.exit(not (as_found and as_it_is[2] == ({429: CLIENTS}, CLIENTS) and is_old_page(abandons[2])))
PY
varnishd -V 2>&1 | head -n 1
python3 run.py
