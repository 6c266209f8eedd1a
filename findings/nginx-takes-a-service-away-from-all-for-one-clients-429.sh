#!/usr/bin/env bash
# nginx 1.22.1 (Debian 12), with Python 3.11, 1 December 2026. Takes half a minute.
#
# Two instances of a service behind nginx, each of which limits its clients. As an instance may deny
# what the other still admits, nginx is to ask the other: `proxy_next_upstream error timeout
# http_429`. A greedy client has used up its quota on both, and sends two requests. One would guess
# that it gets 429 twice and all others get answers. It gets 429 and 502, and then every client gets
# 502 for ten seconds: with `http_429` named, a 429 is an "unsuccessful attempt", of which a single one
# (`max_fails=1`) takes a server out for ten seconds (`fail_timeout=10s`). The two requests take out
# both servers. nginx asks neither of them meanwhile, and its 502 has no `Retry-After`. So a client that
# does not wait keeps all others out.
# With `max_fails=0` on both servers, or without `http_429`, only the greedy client is denied.
set -euo pipefail
command -v nginx >/dev/null || { echo "install nginx (Debian: apt-get install nginx-light)" >&2; exit 1; }
directory=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$directory"' EXIT
chmod 755 "$directory"
cd "$directory"

cat >run.py <<'PY'
import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

asked = []


class Service(BaseHTTPRequestHandler):
    def do_GET(self):
        client = self.headers["X-Client"]
        asked.append(client)
        self.send_response(429 if client == "greedy" else 200)
        if client == "greedy":
            self.send_header("Retry-After", "60")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def start():
    service = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    threading.Thread(target=service.serve_forever, daemon=True).start()
    return service.server_port


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


first, second, port = start(), start(), free_port()
here = os.getcwd()
with open("nginx.conf", "w") as file:
    file.write(f"""
daemon off;
pid {here}/nginx.pid;
events {{}}
http {{
    access_log off;
    client_body_temp_path {here}/body;
    proxy_temp_path {here}/proxy;
    fastcgi_temp_path {here}/fastcgi;
    uwsgi_temp_path {here}/uwsgi;
    scgi_temp_path {here}/scgi;
    upstream by_default {{ server 127.0.0.1:{first}; server 127.0.0.1:{second}; }}
    upstream never_out {{
        server 127.0.0.1:{first} max_fails=0;
        server 127.0.0.1:{second} max_fails=0;
    }}
    proxy_set_header X-Client $arg_client;
    server {{
        listen 127.0.0.1:{port};
        location /up {{ return 204; }}
        location /by_default {{
            proxy_pass http://by_default;
            proxy_next_upstream error timeout http_429;
        }}
        location /never_out {{
            proxy_pass http://never_out;
            proxy_next_upstream error timeout http_429;
        }}
        location /without {{ proxy_pass http://by_default; }}
    }}
}}
""")


def get(path, client="other"):
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", f"{path}?client={client}")
    response = connection.getresponse()
    return response.status, response.getheader("Retry-After")


nginx = subprocess.Popen(["nginx", "-p", here, "-e", f"{here}/errors.log", "-c", f"{here}/nginx.conf"])
try:
    for _ in range(50):
        try:
            get("/up")
            break
        except OSError:
            time.sleep(0.1)
    seen = {}
    for path in ("/without", "/never_out", "/by_default"):
        before = [get(path)[0] for _ in range(4)]
        greedy = [get(path, "greedy") for _ in range(2)]
        asked.clear()
        after = [get(path) for _ in range(4)]
        seen[path] = before, greedy, after, len(asked)
        print(f"{path}: others {before}; the greedy one {greedy}; others {after}, services asked: {len(asked)}")
    time.sleep(5)
    halfway = get("/by_default")[0]
    time.sleep(8)
    later = get("/by_default")[0]
    print(f"/by_default, five seconds later: {halfway}; after 13 seconds: {later}")
finally:
    nginx.terminate()
    nginx.wait()
fine, denied = [200] * 4, [(429, "60")] * 2
well = (fine, denied, [(200, None)] * 4, 4)
bad = (fine, [(429, "60"), (502, None)], [(502, None)] * 4, 0)
sys.exit(not (seen == {"/without": well, "/never_out": well, "/by_default": bad} and (halfway, later) == (502, 200)))
PY
nginx -v
python3 run.py
