#!/usr/bin/env bash
# @nestjs/throttler 6.7.1 and @nest-lab/throttler-storage-redis 1.2.0 (both npm; @nestjs/common 11.2.10,
# ioredis 6.0.0) with Redis 7.0.15, with Node 20, 30 November 2026.
#
# Two calls in eight seconds, and a `blockDuration` of one second for a client that exceeds them. One
# would guess that the block comes on top: two calls in eight seconds at most, from either storage. In
# memory the end of a block also forgets the window, so the client gets two calls each second and a
# bit: the block multiplies the limit. In Redis the window outlasts the block, so the next call begins
# another block: it is never lifted before the window ends. `blockDuration: 0`, documented as "skip the
# block", is an error of Redis at the first call above the limit.
set -euo pipefail
command -v redis-server >/dev/null || { echo "install redis-server (Debian: apt-get install redis-server)" >&2; exit 1; }
directory=$(mktemp -d)
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
redis-server --bind 127.0.0.1 --port "$port" --save '' --dir "$directory" >/dev/null &
trap 'kill %1; rm -rf "$directory"' EXIT
cd "$directory"
npm init -y >/dev/null
npm install --silent --no-fund --no-audit @nestjs/throttler@6.7.1 @nest-lab/throttler-storage-redis@1.2.0 \
    @nestjs/common@11.2.10 @nestjs/core@11.2.10 reflect-metadata@0.2.2 rxjs@7 ioredis@6.0.0

cat >run.cjs <<'JS'
require('reflect-metadata')
const { setTimeout: sleep } = require('node:timers/promises')
const { ThrottlerStorageRedisService } = require('@nest-lab/throttler-storage-redis')
const { ThrottlerStorageService } = require('@nestjs/throttler')
const Redis = require('ioredis')

const WINDOW = 8_000
const LIMIT = 2

// Admissions within one window of a client that calls each 100 ms. The storage is called as the guard does.
async function admitted(storage, block) {
    let count = 0
    for (const end = Date.now() + WINDOW - 500; Date.now() < end; await sleep(100)) {
        const { isBlocked } = await storage.increment(`block of ${block}`, WINDOW, LIMIT, block, 'default')
        count += isBlocked ? 0 : 1
    }
    return count
}

async function main() {
    const redis = new Redis(Number(process.argv[2]))
    const storages = { memory: new ThrottlerStorageService(), Redis: new ThrottlerStorageRedisService(redis) }
    console.log('@nestjs/throttler', require('@nestjs/throttler/package.json').version)
    const results = {}
    for (const block of [1_000, 0]) {
        await Promise.all(Object.entries(storages).map(async ([name, storage]) => {
            const result = await admitted(storage, block).catch((error) => error.message.split(' script')[0])
            results[`${name} ${block}`] = result
            console.log(`${LIMIT} in ${WINDOW} ms, blocked for ${block} ms, in ${name}: ${result}`)
        }))
    }
    redis.disconnect()
    const isAsFound = results['memory 1000'] >= 10 && results['Redis 1000'] === LIMIT && results['memory 0'] === LIMIT
    process.exit(isAsFound && String(results['Redis 0']).includes('invalid expire time') ? 0 : 1)
}
main()
JS
node run.cjs "$port"
