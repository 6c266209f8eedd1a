#!/usr/bin/env bash
# litellm 1.110.2 with openai 3.3.0 and tenacity 9.2.1 (all PyPI), with Python 3.11, 1 December 2026.
# Takes a minute or two to install.
#
# `litellm.completion(.., num_retries=3)`, and a server that answers each request with 429 and
# `Retry-After: 2`. One would guess four requests, two seconds apart. There are seven: the number goes
# to OpenAI's client, which sends four and waits as it is told, and then litellm itself sends three
# more. These leave within a second, as if there were no field, although each is answered with it.
# `max_retries=3` makes four requests, and so does litellm's `Router` with `num_retries=3`.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
python3 -m venv venv
venv/bin/pip --quiet --disable-pip-version-check install litellm==1.110.2 openai==3.3.0 tenacity==9.2.1

cat >run.py <<'PY'
import importlib.metadata
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import litellm

arrivals = []


class Denies(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        arrivals.append(time.monotonic())
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(429)
        self.send_header("Retry-After", "2")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Denies)
threading.Thread(target=server.serve_forever, daemon=True).start()
service = {"model": "openai/some-model", "api_base": f"http://127.0.0.1:{server.server_port}/v1", "api_key": "none"}
messages = [{"role": "user", "content": "hello"}]


def requests(call):
    """When the requests of a call came, in seconds since the first."""
    arrivals.clear()
    try:
        call()
    except litellm.RateLimitError:
        pass
    return [arrival - arrivals[0] for arrival in arrivals]


def router(**options):
    deployment = {"model_name": "some-model", "litellm_params": service}
    return litellm.Router(model_list=[deployment], **options).completion(model="some-model", messages=messages)


litellm.suppress_debug_info = True
seen = {
    "completion, num_retries=3": requests(lambda: litellm.completion(**service, messages=messages, num_retries=3)),
    "completion, max_retries=3": requests(lambda: litellm.completion(**service, messages=messages, max_retries=3)),
    "Router, num_retries=3": requests(lambda: router(num_retries=3)),
}
print("litellm", importlib.metadata.version("litellm"), "openai", importlib.metadata.version("openai"))
for name, times in seen.items():
    print(f"{name}: {len(times)} requests, after", *(f"{when:.1f}" for when in times), "s")
doubled, plain, routed = seen.values()
pauses = [later - earlier for earlier, later in zip(doubled, doubled[1:])]
as_found = len(doubled) == 7 and min(pauses[:3]) > 1.8 and max(pauses[3:]) < 1
sys.exit(not (as_found and len(plain) == len(routed) == 4))
PY
LITELLM_LOCAL_MODEL_COST_MAP=True venv/bin/python run.py 2>errors.log || { status=$?; cat errors.log >&2; exit $status; }
