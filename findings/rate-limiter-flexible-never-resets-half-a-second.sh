#!/usr/bin/env bash
# rate-limiter-flexible 11.4.0 with ioredis 6.0.0 (both npm) and Redis 7.0.15, with Node 20,
# 30 November 2026.
#
# Two calls in half a second: `points: 2, duration: 0.5`. One would guess the same answers from memory
# and from Redis. Memory admits two in each half second. Redis admits two, ever: the seconds are rounded
# down, and 0 stands for "never reset", so the counter has no expiry and the client is denied for good.
# By the same rounding, 1.5 seconds are 1 in Redis, and a client at the limit gets half as much again.
set -euo pipefail
command -v redis-server >/dev/null || { echo "install redis-server (Debian: apt-get install redis-server)" >&2; exit 1; }
directory=$(mktemp -d)
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
redis-server --bind 127.0.0.1 --port "$port" --save '' --dir "$directory" >/dev/null &
trap 'kill %1; rm -rf "$directory"' EXIT
cd "$directory"
npm init -y >/dev/null
npm install --silent --no-fund --no-audit rate-limiter-flexible@11.4.0 ioredis@6.0.0

cat >run.mjs <<'JS'
import { createRequire } from 'node:module'
import { setTimeout as sleep } from 'node:timers/promises'
import Redis from 'ioredis'
import { RateLimiterMemory, RateLimiterRedis } from 'rate-limiter-flexible'

const redis = new Redis(Number(process.argv[2]))

// How many calls are admitted in six seconds, of one each 50 ms.
async function admitted(limiter) {
    let count = 0
    for (const end = Date.now() + 6_000; Date.now() < end; await sleep(50)) {
        await limiter.consume('a client').then(() => count++, (denial) => { if (denial instanceof Error) throw denial })
    }
    return count
}

console.log('rate-limiter-flexible', createRequire(import.meta.url)('rate-limiter-flexible/package.json').version)
const cases = [0.5, 1.5].map((duration) => ({ points: 2, duration, keyPrefix: `each ${duration} s` }))
const memory = await Promise.all(cases.map((options) => admitted(new RateLimiterMemory(options))))
const shared = await Promise.all(cases.map((options) => admitted(new RateLimiterRedis({ storeClient: redis, ...options }))))
const expiry = await redis.pttl('each 0.5 s:a client')
cases.forEach(({ keyPrefix }, index) => {
    console.log(`2 ${keyPrefix}, for 6 s: ${memory[index]} admitted by memory, ${shared[index]} by Redis`)
})
console.log(`the counter of 0.5 s in Redis: ${expiry === -1 ? 'no expiry' : `${expiry} ms`}`)
redis.disconnect()
const half = memory[0] >= 20 && shared[0] === 2 && expiry === -1
process.exit(half && memory[1] <= 10 && shared[1] >= 11 ? 0 : 1)
JS
node run.mjs "$port"
