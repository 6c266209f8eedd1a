#!/usr/bin/env bash
# nginx 1.22.1 (Debian 12), with Python 3.11, 1 December 2026. Takes a minute.
#
# `limit_req_zone .. rate=1r/m`: one request a minute. One would guess that a client which comes each
# 61 seconds is always admitted. Its second request is denied: nginx keeps rates in thousandths of a
# request a second, as a whole number, rounded down. One a minute is 16 of them, which is one each
# 62.5 seconds. The lower the rate, the more it is off: `rate=1r/m` by 4 %, `rate=7r/m` by 0.6 %, and
# `rate=6r/m` not at all. So a client that keeps to the documented limit, or waits as a `Retry-After:
# 60` beside it says, comes too early.
set -euo pipefail
command -v nginx >/dev/null || { echo "install nginx (Debian: apt-get install nginx-light)" >&2; exit 1; }
directory=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$directory"' EXIT
chmod 755 "$directory"
cd "$directory"
port=$(python3 -c 'import socket; print(socket.create_server(("127.0.0.1", 0)).getsockname()[1])')

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
    limit_req_zone \$arg_client zone=one:1m rate=1r/m;
    limit_req_zone \$arg_client zone=six:1m rate=6r/m;
    limit_req_status 429;
    server {
        listen 127.0.0.1:$port;
        location /up { return 204; }
        location /one { limit_req zone=one; try_files /none @admitted; }
        location /six { limit_req zone=six; try_files /none @admitted; }
        location @admitted { return 204; }
    }
}
CONF
cat >run.py <<'PY'
import sys
import time
import urllib.error
import urllib.request

base = f"http://127.0.0.1:{sys.argv[1]}"


def status(path):
    try:
        return urllib.request.urlopen(base + path).status
    except urllib.error.HTTPError as error:
        return error.code


for _ in range(50):
    try:
        status("/up")
        break
    except urllib.error.URLError:
        time.sleep(0.1)

# The rate, and after how many seconds the client comes again.
cases = [("six", 10.1), ("one", 61.0), ("one", 63.0)]
start = time.monotonic()
first = [status(f"/{rate}?client={number}") for number, (rate, _) in enumerate(cases)]
again = []
for number, (rate, seconds) in enumerate(cases):
    time.sleep(start + seconds - time.monotonic())
    again.append(status(f"/{rate}?client={number}"))
    took = time.monotonic() - start
    print(f"{rate} a minute: {first[number]}, and after {took:.1f} s {again[number]}")
sys.exit(not (first == [204] * 3 and again == [204, 429, 204]))
PY
nginx -v
nginx -p "$directory" -e "$directory/errors.log" -c "$directory/nginx.conf" &
python3 run.py "$port"
