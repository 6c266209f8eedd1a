#!/usr/bin/env bash
# memcache (PyPI) 0.14.0 with memcached 1.6.18, with Python 3.11, 30 November 2026.
#
# A value of two megabytes is more than the server takes: it answers `SERVER_ERROR object too large for
# cache`. One would guess that the client raises its own `MemcacheError`. It raises
# `ValueError: invalid literal for int()`, because it takes the second word of the reply for the length
# of a value. An `except MemcacheError` around the call does not catch that.
set -euo pipefail
command -v memcached >/dev/null || { echo "install memcached (Debian: apt-get install memcached)" >&2; exit 1; }
directory=$(mktemp -d)
python3 -m venv "$directory/venv"
"$directory/venv/bin/pip" --quiet install memcache==0.14.0
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
memcached -u nobody -l 127.0.0.1 -p "$port" -U 0 -m 16 &
trap 'kill %1; rm -rf "$directory"' EXIT
sleep 1
memcached --version

"$directory/venv/bin/python" - "$port" <<'PY'
import importlib.metadata
import sys

from memcache import Memcache, MemcacheError

print("memcache", importlib.metadata.version("memcache"))
client = Memcache(("127.0.0.1", int(sys.argv[1])))
client.set("small", b"x")
print("a value of one byte is read back:", client.get("small"))
try:
    client.set("large", b"x" * 2_000_000)
    raised = None
except Exception as error:
    raised = error
print("a value of 2,000,000 bytes raises:", repr(raised))
sys.exit(not (isinstance(raised, ValueError) and not isinstance(raised, MemcacheError)))
PY
