#!/usr/bin/env bash
# gRPC 1.85.1 for Python (PyPI: grpcio) and 1.14.7 for Node (npm: @grpc/grpc-js), with nginx 1.22.1
# (Debian 12), Python 3.11 and Node 20, 1 December 2026.
#
# A service denies with RESOURCE_EXHAUSTED and `grpc-retry-pushback-ms`, the time after which to come
# back. A client repeats such calls and has a deadline of two seconds. With a pushback of 500 ms both
# clients wait as they are told. With five seconds one would guess that they report the denial at
# once, as no repetition can be in time. Both wait for the two seconds and report DEADLINE_EXCEEDED:
# the caller does not learn that there was a denial, and a deadline that is missed looks like a slow
# service. Without pushback, or with -1, which forbids to repeat, they report the denial.
# If nginx in front of the service limits (`limit_req`), it denies with HTTP's 429 and `Retry-After`.
# One would guess RESOURCE_EXHAUSTED. It is UNAVAILABLE, as gRPC's mapping of HTTP statuses says,
# which is what most clients are set to repeat: Python's sends all its repetitions within a second.
# Node's sends none.
set -euo pipefail
command -v nginx >/dev/null || { echo "install nginx (Debian: apt-get install nginx-light)" >&2; exit 1; }
directory=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$directory"' EXIT
chmod 755 "$directory"
cd "$directory"
python3 -m venv venv
venv/bin/pip --quiet --disable-pip-version-check install grpcio==1.85.1
npm init -y >/dev/null
npm install --silent --no-fund --no-audit @grpc/grpc-js@1.14.7
read -r inside outside < <(python3 -c 'import socket
ports = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(port.getsockname()[1] for port in ports))')

cat >nginx.conf <<CONF
daemon off;
pid $directory/nginx.pid;
events {}
http {
    access_log $directory/access.log;
    client_body_temp_path $directory/body;
    proxy_temp_path $directory/proxy;
    fastcgi_temp_path $directory/fastcgi;
    uwsgi_temp_path $directory/uwsgi;
    scgi_temp_path $directory/scgi;
    limit_req_zone all zone=all:1m rate=1r/m;
    limit_req_status 429;
    server {
        listen 127.0.0.1:$outside http2;
        add_header Retry-After 60 always;
        location / { limit_req zone=all; grpc_pass grpc://127.0.0.1:$inside; }
    }
}
CONF
cat >policy.json <<'JSON'
{"methodConfig": [{"name": [{}], "retryPolicy": {
    "maxAttempts": 4, "initialBackoff": "0.1s", "maxBackoff": "0.1s", "backoffMultiplier": 1,
    "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"]}}]}
JSON
cat >client.mjs <<'JS'
import { readFileSync } from 'node:fs'
import grpc from '@grpc/grpc-js'

const [port, ...calls] = process.argv.slice(2)
const options = { 'grpc.service_config': readFileSync('policy.json', 'utf8') }
const client = new grpc.Client(`127.0.0.1:${port}`, grpc.credentials.createInsecure(), options)
const bytes = (value) => value
for (const pushback of calls) {
    const metadata = new grpc.Metadata()
    metadata.set('pushback', pushback)
    const start = performance.now()
    const code = await new Promise((resolve) => {
        client.makeUnaryRequest('/service/method', bytes, bytes, Buffer.alloc(1), metadata,
            { deadline: Date.now() + 2_000 }, (error) => resolve(error ? grpc.status[error.code] : 'OK'))
    })
    console.log(code, (performance.now() - start) / 1_000)
}
client.close()
JS
cat >run.py <<'PY'
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import grpc

inside, outside = sys.argv[1:]
tries = 0


class Service(grpc.GenericRpcHandler):
    """Answers the call that says `admit`, and denies others with the pushback that they name."""

    def service(self, details):
        def answer(_, context):
            global tries
            tries += 1
            pushback = dict(context.invocation_metadata())["pushback"]
            if pushback == "admit":
                return b""
            if pushback != "none":
                context.set_trailing_metadata([("grpc-retry-pushback-ms", pushback)])
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "denied")

        return grpc.unary_unary_rpc_method_handler(answer)


server = grpc.server(ThreadPoolExecutor(4))
server.add_generic_rpc_handlers([Service()])
server.add_insecure_port(f"127.0.0.1:{inside}")
server.start()


def by_python(port, pushback):
    with grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.service_config", open("policy.json").read())]) as channel:
        start = time.monotonic()
        try:
            channel.unary_unary("/service/method")(b"", timeout=2, metadata=[("pushback", pushback)])
            code = "OK"
        except grpc.RpcError as error:
            code = error.code().name
        return code, time.monotonic() - start


def by_node(port, pushback):
    output = subprocess.run(["node", "client.mjs", port, pushback], capture_output=True, check=True, text=True).stdout
    code, took = output.split()
    return code, float(took)


def requests_to_nginx():
    return len(open("access.log").readlines())


seen = {}
for name, call in {"Python": by_python, "Node": by_node}.items():
    for pushback in ("none", "-1", "500", "5000"):
        tries = 0
        code, took = call(inside, pushback)
        seen[name, pushback] = code, tries
        print(f"{name}, pushback {pushback:4}: {code} after {took:.1f} s and {tries} tries")
        assert pushback != "5000" or took > 1.9
for _ in range(50):
    # Uses up the limit of nginx, when that is up.
    if by_python(outside, "admit")[0] == "OK":
        break
    time.sleep(0.1)
for name, call in {"Python": by_python, "Node": by_node}.items():
    before = requests_to_nginx()
    code, took = call(outside, "admit")
    time.sleep(0.5)
    seen[name, "nginx"] = code, requests_to_nginx() - before
    print(f"{name}, denied by nginx: {code} after {took:.1f} s and {seen[name, 'nginx'][1]} tries")
server.stop(0)
expected = {("none", 4): "RESOURCE_EXHAUSTED", ("-1", 1): "RESOURCE_EXHAUSTED", ("500", 4): "RESOURCE_EXHAUSTED",
            ("5000", 1): "DEADLINE_EXCEEDED"}
as_found = all(seen[name, pushback] == (code, count)
               for (pushback, count), code in expected.items() for name in ("Python", "Node"))
sys.exit(not (as_found and seen["Python", "nginx"] == ("UNAVAILABLE", 4) and seen["Node", "nginx"] == ("UNAVAILABLE", 1)))
PY
nginx -v
nginx -p "$directory" -e "$directory/errors.log" -c "$directory/nginx.conf" &
venv/bin/python run.py "$inside" "$outside"
