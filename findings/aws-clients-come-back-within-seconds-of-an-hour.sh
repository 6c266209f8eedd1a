#!/usr/bin/env bash
# boto3 1.44.5 (PyPI; botocore 1.44.5) and @aws-sdk/client-dynamodb 3.1169.0 (npm), with Python 3.11
# and Node 20, 1 December 2026. Takes a minute.
#
# AWS's two clients, each set to three attempts, and a service with DynamoDB's protocol that denies
# with a ThrottlingException and `Retry-After`. One would guess that the two wait alike, and that who
# is asked for an hour waits that long or gives up. Asked for three seconds, Node's client waits three
# seconds each time. Asked for an hour, it comes back after five to seven seconds: five more than its
# own backoff are the most it waits, by the source. Python's does not read the field at all, and comes back by its
# own backoff. Both read `x-amz-retry-after`, in milliseconds, and both cut it at those five seconds.
# `max_attempts` of Python's `retries` is three repetitions, `maxAttempts` of Node's three requests.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
python3 -m venv venv
venv/bin/pip --quiet --disable-pip-version-check install boto3==1.44.5 botocore==1.44.5
npm init -y >/dev/null
npm install --silent --no-fund --no-audit @aws-sdk/client-dynamodb@3.1169.0

cat >client.mjs <<'JS'
import { DynamoDBClient, ListTablesCommand } from '@aws-sdk/client-dynamodb'

const client = new DynamoDBClient({
    endpoint: process.argv[2], region: 'us-east-1', maxAttempts: 3,
    credentials: { accessKeyId: 'key', secretAccessKey: 'secret' },
})
try {
    await client.send(new ListTablesCommand({}))
} catch (error) {
    console.log(error.name)
}
JS
cat >client.py <<'PY'
import sys

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

client = boto3.client(
    "dynamodb", endpoint_url=sys.argv[1], region_name="us-east-1",
    aws_access_key_id="key", aws_secret_access_key="secret",
    config=Config(retries={"mode": "standard", "max_attempts": 3}),
)
try:
    client.list_tables()
except ClientError as error:
    print(error.response["Error"]["Code"])
PY
cat >run.py <<'PY'
import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BODY = json.dumps({"__type": "com.amazonaws.dynamodb.v20120810#ThrottlingException", "message": "denied"}).encode()
CLIENTS = {"Python": ["venv/bin/python", "client.py"], "Node": ["node", "--no-warnings", "client.mjs"]}
FIELDS = [("Retry-After", "3"), ("Retry-After", "3600"), ("x-amz-retry-after", "3000"), ("x-amz-retry-after", "3600000")]


def waits(client, field):
    """The seconds between the client's requests."""
    arrivals = []

    class Denies(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            arrivals.append(time.monotonic())
            self.send_response(400)
            self.send_header("Content-Type", "application/x-amz-json-1.0")
            self.send_header(*field)
            self.send_header("Content-Length", str(len(BODY)))
            self.end_headers()
            self.wfile.write(BODY)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Denies)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    command = CLIENTS[client] + [f"http://127.0.0.1:{server.server_port}"]
    output = subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()
    assert output == "ThrottlingException", output
    return [after - before for before, after in zip(arrivals, arrivals[1:])]


with ThreadPoolExecutor(4) as pool:
    runs = {(client, *field): pool.submit(waits, client, field) for field in FIELDS for client in CLIENTS}
seen = {run: future.result() for run, future in runs.items()}
for (client, name, value), times in seen.items():
    print(f"{client:6} {name}: {value:7} repeats after", *(f"{wait:.1f}" for wait in times), "s")


def within(times, least, most):
    return all(least <= wait < most for wait in times)


as_found = all(len(times) == {"Python": 3, "Node": 2}[client] for (client, *_), times in seen.items())
as_found &= within(seen["Node", "Retry-After", "3"], 2.9, 4.5) and within(seen["Node", "Retry-After", "3600"], 4.9, 9)
as_found &= min(seen["Python", "Retry-After", "3"]) < 2.9 and within(seen["Python", "Retry-After", "3600"], 0, 5.5)
for client in CLIENTS:
    as_found &= within(seen[client, "x-amz-retry-after", "3000"], 2.9, 5.5)
    as_found &= within(seen[client, "x-amz-retry-after", "3600000"], 4.9, 10.5)
sys.exit(not as_found)
PY
python3 run.py
