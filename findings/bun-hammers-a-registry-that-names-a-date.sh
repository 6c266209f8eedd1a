#!/usr/bin/env bash
# Bun 1.4.5 and Yarn 4.18.1 (both npm), pip 26.3 and uv 0.13.9 (both PyPI), with Python 3.11 and
# Node 20, 1 December 2026. Takes a minute and a half.
#
# `install`, from a registry that denies with 429 and `Retry-After`, which is a number of seconds or a
# date. One would guess that both are waited for, or neither. pip and Yarn wait for both. Bun waits for
# 8 seconds, and sends all its repetitions within two seconds if the same moment is named by a date.
# If it is to wait for an hour, it waits for a minute, and says "registry asked to wait 60s".
# uv reads neither: it repeats three times within some ten seconds, whatever it is told, and gives up.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
python3 -m venv venv
venv/bin/pip --quiet --disable-pip-version-check install pip==26.3 uv==0.13.9
npm init -y >/dev/null
npm install --silent --no-fund --no-audit @yarnpkg/cli-dist@4.18.1 bun@1.4.5

cat >run.py <<'PY'
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HERE = os.getcwd()
TOOLS = ("pip", "yarn", "bun", "uv")
FORMS = {
    "8": lambda: "8",
    "a date in 8 to 9 seconds": lambda: formatdate(int(time.time()) + 9, usegmt=True),
    "3600": lambda: "3600",
}


def registry(retry_after):
    """A registry that denies each request, and when the requests came."""
    arrivals = []

    class Denies(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            arrivals.append(time.monotonic())
            self.send_response(429)
            self.send_header("Retry-After", retry_after())
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Denies)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}", arrivals


def install(tool, form):
    """The requests within twenty seconds, in seconds since the first, and the tool's output."""
    url, arrivals = registry(FORMS[form])
    folder = f"{HERE}/{tool}-{form}"
    os.mkdir(folder)
    with open(f"{folder}/package.json", "w") as file:
        json.dump({"name": "app", "version": "1.0.0", "dependencies": {"some-package": "1.0.0"}}, file)
    with open(f"{folder}/.yarnrc.yml", "w") as file:
        file.write(f"npmRegistryServer: {url}\nunsafeHttpWhitelist: ['127.0.0.1']\nenableTelemetry: false\n")
    open(f"{folder}/yarn.lock", "w").close()
    python = ["--no-cache", "--target", "out", "--index-url", url, "some-package"]
    command = {
        "pip": [f"{HERE}/venv/bin/pip", "install", "--disable-pip-version-check", *python],
        "uv": [f"{HERE}/venv/bin/uv", "pip", "install", *python],
        "yarn": ["node", f"{HERE}/node_modules/@yarnpkg/cli-dist/bin/yarn.js", "install"],
        "bun": [f"{HERE}/node_modules/.bin/bun", "install", "--registry", url, "--no-cache"],
    }[tool]
    environment = {**os.environ, "HOME": folder, "PIP_NO_CACHE_DIR": "1"}
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while not arrivals and process.poll() is None:
        time.sleep(0.05)
    try:
        output, _ = process.communicate(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
    return [arrival - arrivals[0] for arrival in arrivals], output.decode()


with ThreadPoolExecutor() as pool:
    runs = {(tool, form): pool.submit(install, tool, form) for form in FORMS for tool in TOOLS}
seen = {run: future.result() for run, future in runs.items()}
for (tool, form), (times, output) in seen.items():
    says = [line.strip() for line in output.splitlines() if "asked to wait" in line][:1]
    print(f"{tool:4} Retry-After: {form}: requests after", *(f"{when:.1f}" for when in times), "s;", *says)
waits = {run: times[1] if len(times) > 1 else None for run, (times, _) in seen.items()}
seconds, date, hour = FORMS
honour = [(tool, form) for tool in ("pip", "yarn") for form in (seconds, date)] + [("bun", seconds)]
as_found = all(waits[run] and 7.5 < waits[run] < 11 for run in honour)
as_found &= len(seen["bun", date][0]) > 4 and seen["bun", date][0][-1] < 5
as_found &= all(waits[tool, hour] is None for tool in ("pip", "yarn", "bun")) and "60s" in seen["bun", hour][1]
as_found &= all(len(seen["uv", form][0]) == 4 and waits["uv", form] < 5 for form in FORMS)
sys.exit(not as_found)
PY
python3 run.py
