#!/usr/bin/env bash
# koa2-ratelimit 1.1.3 (npm; koa 3.3.0, redis 4.7.1) with Redis 7.0.15, with Node 20, 30 November 2026.
#
# Two requests a minute. One would guess that the memory and the Redis store report the same
# `X-RateLimit-Reset`, about a minute ahead in seconds since 1970. With Redis only the first response
# does. All others, the denial too, report 1: the first second of 1970. The store returns the
# remaining seconds where the middleware expects a date in milliseconds. To a client that reads the
# field the limit is over, so it may come back at once.
# `Retry-After` is the whole window with both stores, also when a third of the window is over.
set -euo pipefail
command -v redis-server >/dev/null || { echo "install redis-server (Debian: apt-get install redis-server)" >&2; exit 1; }
directory=$(mktemp -d)
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
redis-server --bind 127.0.0.1 --port "$port" --save '' --dir "$directory" >/dev/null &
trap 'kill %1; rm -rf "$directory"' EXIT
cd "$directory"
npm init -y >/dev/null
npm install --silent --no-fund --no-audit koa2-ratelimit@1.1.3 koa@3.3.0 redis@4.7.1

cat >run.cjs <<'JS'
const Koa = require('koa')
const { RateLimit, Stores } = require('koa2-ratelimit')

// Status, reset in seconds from now, and Retry-After of four requests, with a pause before the last.
async function responses(store) {
    const app = new Koa()
    app.use(RateLimit.middleware({ interval: { min: 1 }, max: 2, store }))
    app.use((context) => { context.body = 'here' })
    const server = app.listen(0, '127.0.0.1')
    const seen = []
    for (const pause of [0, 0, 0, 20_000]) {
        await new Promise((resolve) => setTimeout(resolve, pause))
        const { status, headers } = await fetch(`http://127.0.0.1:${server.address().port}/`)
        const reset = Number(headers.get('x-ratelimit-reset'))
        seen.push({ status, reset, ahead: Math.round(reset - Date.now() / 1000), retryAfter: headers.get('retry-after') })
    }
    server.close()
    return seen
}

async function main() {
    console.log('koa2-ratelimit', require('koa2-ratelimit/package.json').version)
    const redis = new Stores.Redis({ socket: { host: '127.0.0.1', port: Number(process.argv[2]) } })
    const [memory, shared] = await Promise.all([responses(new Stores.Memory()), responses(redis)])
    for (const [name, seen] of Object.entries({ memory, Redis: shared })) {
        for (const { status, reset, ahead, retryAfter } of seen) {
            const when = reset === 1 ? 'in 1970' : `in ${ahead} s`
            console.log(`${name.padEnd(6)} ${status} X-RateLimit-Reset: ${reset} (${when}), Retry-After: ${retryAfter}`)
        }
    }
    const ahead = ({ reset }) => reset > 1_700_000_000
    const last = [memory, shared].every((seen) => seen[3].status === 429 && seen[3].retryAfter === '60')
    const isAsFound = memory.every(ahead) && memory[3].ahead <= 41 && ahead(shared[0])
    process.exit(isAsFound && last && shared.slice(1).every(({ reset }) => reset === 1) ? 0 : 1)
}
main()
JS
node run.cjs "$port"
