#!/usr/bin/env bash
# memcached 1.6.18 (Debian 12) with `-M`, 30 November 2026.
#
# With `-M` a full server refuses to store instead of evicting. One would guess that a refused store
# leaves everything as it was. The meta command `ms` on a key that has a value is answered with
# `SERVER_ERROR out of memory`, and the value is gone: with no condition, with the mode `ME` (add),
# which could not have stored anyway, and with a CAS number that does not match. Plain `set` does the
# same; plain `add` and `cas` refuse and leave the value.
set -euo pipefail
command -v memcached >/dev/null || { echo "install memcached (Debian: apt-get install memcached)" >&2; exit 1; }
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
memcached -u nobody -l 127.0.0.1 -p "$port" -U 0 -M -m 2 &
trap 'kill %1' EXIT
sleep 1
memcached --version

python3 - "$port" <<'PY'
import socket
import sys

server = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
replies = server.makefile("rb")
VALUE = b"x" * 60 + b"\r\n"
stored = 0


def ask(command):
    server.sendall(command)
    return replies.readline().strip().decode()


def fill():
    """Stores new keys until the server is full."""
    global stored
    while True:
        stored += 1
        reply = ask(b"ms fill%d 60 T100\r\n" % stored + VALUE)
        if reply != "HD":
            return


cases = {
    "ms": b"ms %s 60 T100\r\n",
    "ms, mode ME (add)": b"ms %s 60 T100 ME\r\n",
    "ms, wrong CAS number": b"ms %s 60 T100 C99999999\r\n",
    "set": b"set %s 0 100 60\r\n",
    "add": b"add %s 0 100 60\r\n",
    "cas, wrong number": b"cas %s 0 100 60 99999999\r\n",
}
for number in range(len(cases)):
    ask(b"ms key%d 60 T100\r\n" % number + VALUE)
is_gone = {}
for number, (name, command) in enumerate(cases.items()):
    fill()
    key = b"key%d" % number
    refused = ask(command % key + VALUE)
    is_gone[name] = ask(b"mg %s\r\n" % key) == "EN"
    print(f"{name:22} {refused:45} the old value is {'gone' if is_gone[name] else 'there'}")
expected = {name: name not in ("add", "cas, wrong number") for name in cases}
sys.exit(is_gone != expected)
PY
