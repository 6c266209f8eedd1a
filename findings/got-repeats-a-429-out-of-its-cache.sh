#!/usr/bin/env bash
# got 14.6.6 (npm), with Node 20, and nginx 1.22.1 (Debian 12), 1 December 2026.
#
# A service sends `Cache-Control: max-age=60` with all its responses, the denials too. Once it
# denies a client: 429 with `Retry-After: 1`. RFC 6585 says that a 429 "MUST NOT be stored by a cache".
# got with `cache` waits a second and repeats, twice. One would guess that the first repetition gets
# the 200 that the service has for it, as without `cache`. The service gets no further request: both
# repetitions are answered with the stored 429, and so is every call for a minute.
# nginx with `proxy_cache` stores it as well, and answers all other clients with the 429 of the one,
# and with its `Retry-After: 1`, for a minute. `Cache-Control: no-store` on the 429 keeps both from it.
set -euo pipefail
command -v nginx >/dev/null || { echo "install nginx (Debian: apt-get install nginx-light)" >&2; exit 1; }
directory=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$directory"' EXIT
chmod 755 "$directory"
cd "$directory"
npm init -y >/dev/null
npm install --silent --no-fund --no-audit got@14.6.6
read -r inside outside < <(python3 -c 'import socket
ports = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(port.getsockname()[1] for port in ports))')

mkdir cache
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
    proxy_cache_path $directory/cache keys_zone=responses:1m;
    server {
        listen 127.0.0.1:$outside;
        location / {
            proxy_pass http://127.0.0.1:$inside;
            proxy_cache responses;
        }
    }
}
CONF
cat >run.mjs <<'JS'
import { readFileSync } from 'node:fs'
import http from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import got from 'got'

const [inside, outside] = process.argv.slice(2)
// The first request for each path is denied.
const requests = {}
const service = http.createServer(({ url }, response) => {
    requests[url] = (requests[url] ?? 0) + 1
    const denied = requests[url] === 1
    const noStore = denied && url.includes('no-store')
    response.writeHead(denied ? 429 : 200, {
        'Cache-Control': noStore ? 'no-store' : 'max-age=60',
        ...(denied && { 'Retry-After': '1' }),
    })
    response.end()
})
await new Promise((ready) => service.listen(inside, '127.0.0.1', ready))

async function withGot(path, cache) {
    const { statusCode } = await got(`http://127.0.0.1:${inside}${path}`, { cache, throwHttpErrors: false })
    return [statusCode, requests[path]]
}
async function withNginx(path) {
    const statuses = []
    for (let client = 0; client < 3; client++) {
        const response = await fetch(`http://127.0.0.1:${outside}${path}`)
        statuses.push(response.status)
        await sleep(1_500)
    }
    return [...statuses, requests[path]]
}

for (let tries = 0; tries < 50; tries++) {
    if (await fetch(`http://127.0.0.1:${outside}/up`).catch(() => false)) break
    await sleep(100)
}
const seen = await Promise.all([
    withGot('/got'), withGot('/got/cache', new Map()), withGot('/got/no-store', new Map()),
    withNginx('/nginx'), withNginx('/nginx/no-store'),
])
const { version } = JSON.parse(readFileSync('node_modules/got/package.json'))
console.log(`got ${version} without a cache:        ${seen[0][0]} in the end, ${seen[0][1]} requests to the service`)
console.log(`got with a cache:                  ${seen[1][0]} in the end, ${seen[1][1]} request`)
console.log(`got with a cache, no-store on 429: ${seen[2][0]} in the end, ${seen[2][1]} requests`)
console.log(`nginx, three clients:                  ${seen[3].slice(0, 3).join(', ')}, ${seen[3][3]} request`)
console.log(`nginx, three clients, no-store on 429: ${seen[4].slice(0, 3).join(', ')}, ${seen[4][3]} requests`)
const expected = [[200, 2], [429, 1], [200, 2], [429, 429, 429, 1], [429, 200, 200, 2]]
process.exit(JSON.stringify(seen) === JSON.stringify(expected) ? 0 : 1)
JS
nginx -v
nginx -p "$directory" -e "$directory/errors.log" -c "$directory/nginx.conf" &
node run.mjs "$inside" "$outside"
