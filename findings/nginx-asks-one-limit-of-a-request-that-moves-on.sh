#!/usr/bin/env bash
# nginx 1.22.1 (Debian 12), with Python 3.11, 1 December 2026.
#
# All requests are limited to a hundred a second, and those that end at the application, in a location
# of its own, to one a minute: `limit_req` in both. `try_files` of the first location hands a request
# over to the second if there is no such file. One would guess that it must pass both limits. It
# passes the first, and the second is never asked: nginx applies `limit_req` once to each request, and
# an internal redirect, `error_page`'s too, does not make it another one. A request that comes
# straight to the second location is limited, one that `rewrite` sends there as well, as that happens
# before the limits, and one whose first location has no limit. `limit_conn` is the same: of two
# connections where one is allowed, both are served. The documentation of both says that several may be
# set, and does not speak of redirects. So a wide limit in front of all switches a narrow one behind
# it off.
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
    limit_req_zone \$http_x_client zone=all:1m rate=100r/s;
    limit_req_zone \$http_x_client zone=application:1m rate=1r/m;
    limit_conn_zone \$http_x_client zone=many:1m;
    limit_conn_zone \$http_x_client zone=single:1m;
    limit_req_status 429;
    limit_conn_status 429;
    server {
        listen 127.0.0.1:$port;
        root $directory;
        location /up { return 204; }
        location /straight { limit_req zone=application; try_files /none @admitted; }
        location /try_files { limit_req zone=all burst=100 nodelay; try_files \$uri /straight; }
        location /error_page { limit_req zone=all burst=100 nodelay; error_page 404 = /straight; }
        location /rewrite { limit_req zone=all burst=100 nodelay; rewrite ^ /straight last; }
        location /unlimited { try_files \$uri /straight; }
        location @admitted { return 204; }
        location /connections { limit_conn many 100; try_files \$uri /slow; }
        location /slow { limit_conn single 1; limit_rate 10k; try_files /page /page; }
    }
}
CONF
head -c 30000 /dev/zero >page
cat >run.py <<'PY'
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

base = f"http://127.0.0.1:{sys.argv[1]}"


def status(way):
    request = urllib.request.Request(f"{base}/{way}", headers={"X-Client": way})
    try:
        with urllib.request.urlopen(request) as response:
            response.read()
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


for _ in range(50):
    try:
        status("up")
        break
    except urllib.error.URLError:
        time.sleep(0.1)

seen = {}
for way in ("straight", "unlimited", "rewrite", "try_files", "error_page"):
    seen[way] = [status(way) for _ in range(5)]
    print(f"/{way}, five requests: {seen[way]}")
for way in ("slow", "connections"):
    with ThreadPoolExecutor(2) as pool:
        seen[way] = sorted(pool.map(status, [way] * 2))
    print(f"/{way}, two connections at once: {seen[way]}")
one, all_five = [204] + [429] * 4, [204] * 5
expected = {"straight": one, "unlimited": one, "rewrite": one, "try_files": all_five, "error_page": all_five}
sys.exit(seen != {**expected, "slow": [200, 429], "connections": [200, 200]})
PY
nginx -v
nginx -p "$directory" -e "$directory/errors.log" -c "$directory/nginx.conf" &
python3 run.py "$port"
