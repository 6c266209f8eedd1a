#!/usr/bin/env bash
# httpx 0.28.1 (httpcore 1.0.9, h2 4.4.1), niquests 3.21.2 and libcurl 8.23.0 (pycurl 7.49.0; all
# PyPI), Node 20, curl 7.88.1 and nginx 1.22.1 (Debian 12), with Python 3.11, 1 December 2026.
#
# nginx limits requests (`limit_req`) and speaks HTTP/2. A client uploads 100 kB and is denied. nginx
# answers 429 at once, with `Retry-After`, and does not read the body. RFC 9113 foresees that: a
# server may answer before the request is complete, and ask the client to stop by RST_STREAM with
# NO_ERROR. One would guess that the client gets the 429. niquests, Node's http2 and libcurl 8.23 do.
# httpx raises `ReadTimeout` after its timeout: it has sent as much as HTTP/2's flow control lets it,
# 65,535 bytes, and waits to be allowed to send more. The answer has come, and it does not look at it.
# Or it raises `LocalProtocolError` at once. So a client that repeats after such errors never learns
# of the limit. With a body below 65,535 bytes, and by HTTP/1.1, httpx gets the 429.
# Debian's curl, 7.88.1, loses the 429 in most of its tries: "Stream error in the HTTP/2 framing
# layer".
set -euo pipefail
command -v nginx >/dev/null || { echo "install nginx (Debian: apt-get install nginx-light)" >&2; exit 1; }
command -v curl >/dev/null || { echo "install curl (Debian: apt-get install curl)" >&2; exit 1; }
directory=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$directory"' EXIT
chmod 755 "$directory"
cd "$directory"
python3 -m venv venv
venv/bin/pip --quiet --disable-pip-version-check install httpx==0.28.1 httpcore==1.0.9 h2==4.4.1 \
    niquests==3.21.2 pycurl==7.49.0
read -r plain http2 < <(python3 -c 'import socket
ports = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(port.getsockname()[1] for port in ports))')

cat >nginx.conf <<CONF
daemon off;
pid $directory/nginx.pid;
events {}
http {
    access_log off;
    client_body_temp_path $directory/body;
    proxy_temp_path $directory/proxy;
    fastcgi_temp_path $directory/fastcgi;
    uwsgi_temp_path $directory/uwsgi;
    scgi_temp_path $directory/scgi;
    limit_req_zone all zone=all:1m rate=1r/m;
    limit_req_status 429;
    server {
        listen 127.0.0.1:$plain;
        listen 127.0.0.1:$http2 http2;
        location /up { return 204; }
        location / {
            limit_req zone=all;
            error_page 429 = @denied;
            try_files /none @admitted;
        }
        location @admitted { return 204; }
        location @denied { add_header Retry-After 60 always; return 429; }
    }
}
CONF
cat >node.mjs <<'JS'
import http2 from 'node:http2'

const [port, size] = process.argv.slice(2)
const session = http2.connect(`http://127.0.0.1:${port}`)
const stream = session.request({ ':method': 'POST', ':path': '/' })
stream.on('response', (headers) => console.log(headers[':status']))
stream.on('close', () => session.close())
stream.resume()
stream.end(Buffer.alloc(Number(size)))
JS
cat >run.py <<'PY'
import subprocess
import sys
import time
from importlib.metadata import version

import httpx
import niquests
import pycurl

plain, http2 = (f"http://127.0.0.1:{port}" for port in sys.argv[1:])
SMALL, LARGE = 50_000, 100_000
for _ in range(50):
    try:
        httpx.get(f"{plain}/up")
        break
    except httpx.ConnectError:
        time.sleep(0.1)


def outcome(post):
    try:
        return post()
    except Exception as error:
        return type(error).__name__


def by_httpx(url, size, client):
    return outcome(lambda: client.post(url, content=bytes(size)).status_code)


def by_niquests():
    with niquests.Session(disable_http1=True) as session:
        return outcome(lambda: session.post(http2, data=bytes(LARGE)).status_code)


def by_libcurl():
    curl = pycurl.Curl()
    curl.setopt(pycurl.URL, http2)
    curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_2_PRIOR_KNOWLEDGE)
    curl.setopt(pycurl.POSTFIELDS, bytes(LARGE))
    curl.setopt(pycurl.WRITEFUNCTION, lambda _: None)
    curl.perform()
    return curl.getinfo(pycurl.RESPONSE_CODE)


def by_node():
    command = ["node", "node.mjs", http2.rpartition(":")[2], str(LARGE)]
    return int(subprocess.run(command, capture_output=True, check=True, timeout=20).stdout)


def by_curl():
    command = ["curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}"]
    command += ["--http2-prior-knowledge", "--data-binary", "@-", http2]
    return int(subprocess.run(command, input=bytes(LARGE), capture_output=True, timeout=20).stdout)


# Uses up the limit.
assert httpx.post(plain).status_code == 204
large = []
for _ in range(5):
    with httpx.Client(http1=False, http2=True, timeout=2) as client:
        large += [by_httpx(http2, LARGE, client) for _ in range(2)]
with httpx.Client(http1=False, http2=True) as client:
    small = by_httpx(http2, SMALL, client)
with httpx.Client() as client:
    http1 = by_httpx(plain, LARGE, client)
others = {"niquests": by_niquests(), "Node": by_node(), "libcurl": outcome(by_libcurl)}
missed = sum(by_curl() == 0 for _ in range(20))
print(f"httpx {version('httpx')}, HTTP/2, {LARGE} bytes:", *large)
print(f"httpx, HTTP/2, {SMALL} bytes: {small}; HTTP/1.1, {LARGE} bytes: {http1}")
print(f"HTTP/2, {LARGE} bytes:", *(f"{name} {status}" for name, status in others.items()))
print(f"curl, HTTP/2, {LARGE} bytes: no answer in {missed} of 20 tries")
as_found = set(large) <= {"ReadTimeout", "LocalProtocolError"} and (small, http1) == (429, 429)
sys.exit(not (as_found and set(others.values()) == {429} and missed))
PY
curl --version | head -n 1
nginx -v
nginx -p "$directory" -e "$directory/errors.log" -c "$directory/nginx.conf" &
venv/bin/python run.py "$plain" "$http2"
