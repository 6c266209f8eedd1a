#!/usr/bin/env bash
# pylibmc 1.6.3 (PyPI, with libmemcached 1.0.16), memcached 2.2.2 with hashring 3.2.0, and memjs 1.3.2
# (all npm) with memcached 1.6.18 (Debian 12), with Python 3.11 and Node 20, 1 December 2026.
#
# Four Memcached servers hold a counter for each of a thousand clients, which two services share. The
# one in Python counts by pylibmc with `ketama`, the one in Node by memcached, whose hashing is
# "compatible with ketama". One would guess that both find the same counter. They do for a quarter of
# the clients, as by chance: of all others each service has a counter on a server of its own, and a
# limit of ten an hour is twenty. With pylibmc's `ketama_weighted` they agree on all, though no server
# has a weight: libmemcached's plain `ketama` makes other points of a server's name, and pylibmc's own
# documentation shows that one. The README of memcached (npm) names `ketama_weighted`, far down; no
# error tells that it is needed. memjs finds a quarter of either's.
# Of how many clients a second service finds the counter that the first one made.
set -euo pipefail
command -v memcached >/dev/null || { echo "install memcached (Debian: apt-get install memcached)" >&2; exit 1; }
directory=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$directory"' EXIT
cd "$directory"
python3 -m venv venv
venv/bin/pip --quiet --disable-pip-version-check install pylibmc==1.6.3
npm init -y >/dev/null
npm install --silent --no-fund --no-audit memcached@2.2.2 hashring@3.2.0 memjs@1.3.2
ports=$(python3 -c '
import socket
free = [socket.create_server(("127.0.0.1", 0)) for _ in range(4)]
print(*[server.getsockname()[1] for server in free])')
for port in $ports; do memcached -l 127.0.0.1 -p "$port" -u nobody & done

cat >make.py <<'PY'
import socket
import sys
import time

import pylibmc

way, *ports = sys.argv[1:]
for port in ports:
    for _ in range(50):
        try:
            socket.create_connection(("127.0.0.1", int(port))).close()
            break
        except OSError:
            time.sleep(0.1)
client = pylibmc.Client([f"127.0.0.1:{port}" for port in ports], behaviors={way: True})
assert all(client.add(f"{way}-{number}", "1") for number in range(1000))
assert not any(client.add(f"{way}-{number}", "1") for number in range(1000))
PY
cat >find.js <<'JS'
const Memcached = require('memcached')
const { Client } = require('memjs')

const [way, ...ports] = process.argv.slice(2)
const servers = ports.map((port) => `127.0.0.1:${port}`)
const keys = Array.from({ length: 1000 }, (_, number) => `${way}-${number}`)

async function found(get) {
    let found = 0
    for (const key of keys) if (await get(key)) found++
    return found
}

async function main() {
    const memcached = new Memcached(servers)
    const ketama = await found((key) => new Promise((resolve, reject) =>
        memcached.get(key, (error, value) => (error ? reject(error) : resolve(value !== undefined)))))
    const memjs = Client.create(servers.join(','))
    const other = await found(async (key) => (await memjs.get(key)).value !== null)
    console.log(ketama, other)
    process.exit(0)
}

main()
JS
venv/bin/python -c 'import pylibmc; print("pylibmc", pylibmc.__version__, "libmemcached", pylibmc.libmemcached_version)'
for way in ketama ketama_weighted; do
    venv/bin/python make.py "$way" $ports
    read -r "found_$way" "memjs_$way" < <(node find.js "$way" $ports)
done
echo "pylibmc with ketama: memcached of npm finds $found_ketama of 1000, memjs $memjs_ketama"
echo "pylibmc with ketama_weighted: memcached of npm finds $found_ketama_weighted of 1000, memjs $memjs_ketama_weighted"
((found_ketama > 100 && found_ketama < 450 && found_ketama_weighted == 1000))
((memjs_ketama < 450 && memjs_ketama_weighted < 450))
