#!/usr/bin/env bash
# ioredis-mock 8.13.1 (npm; ioredis 5.11.1) and Redis 7.0.15, with Node 20, 1 December 2026.
#
# Limiters in Redis are Lua scripts, and ioredis-mock runs them in memory, for tests: it "emulates
# ioredis by performing all operations in-memory", and its README shows scripts by `eval`. One would
# guess that a script has the same outcome in both, or that the mock refuses it. Three scripts of ten
# calls in two seconds, 30 calls at once, and 30 after three seconds. A token bucket, which asks
# `HMGET` whether there is a state, is an error in the mock: a field that is missing is not `false`
# there. A counter that is written with `KEEPTTL` admits ten and then none for good: the option is
# passed over and the expiry goes. One that returns `count <= limit` admits ten in both, if the caller
# asks for truth. The mock returns `true`, Redis 1, so a caller that asks for `=== true` passes its
# tests and admits nobody in production. A fraction, such as the tokens left, is cut off by Redis and
# not by the mock: it runs Lua 5.3, with integers of 32 bits, and Redis runs 5.1.
# fakeredis (PyPI) 2.41.0 did not differ in any of this.
set -euo pipefail
command -v redis-server >/dev/null || { echo "install redis-server (Debian: apt-get install redis-server)" >&2; exit 1; }
directory=$(mktemp -d)
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$directory"' EXIT
cd "$directory"
npm init -y >/dev/null
npm install --silent --no-fund --no-audit ioredis-mock@8.13.1 ioredis@5.11.1
redis-server --bind 127.0.0.1 --port "$port" --save '' --dir "$directory" >/dev/null &

cat >run.mjs <<'JS'
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import Redis from 'ioredis'
import Mock from 'ioredis-mock'

const LIMIT = 10
const PERIOD = 2_000
const CALLS = 30

const scripts = {
    'token bucket': `
        local limit, period = tonumber(ARGV[1]), tonumber(ARGV[2])
        local now = tonumber(ARGV[3])
        local state = redis.call('HMGET', KEYS[1], 'tokens', 'at')
        local tokens, at = limit, now
        if state[1] then tokens, at = tonumber(state[1]), tonumber(state[2]) end
        tokens = math.min(limit, tokens + (now - at) * limit / period)
        local admitted = tokens >= 1
        if admitted then tokens = tokens - 1 end
        redis.call('HSET', KEYS[1], 'tokens', tostring(tokens), 'at', ARGV[3])
        redis.call('PEXPIRE', KEYS[1], ARGV[2])
        return admitted and 1 or 0`,
    'KEEPTTL': `
        local left = redis.call('GET', KEYS[1])
        if not left then
            redis.call('SET', KEYS[1], ARGV[1] - 1, 'PX', ARGV[2])
            return 1
        end
        if tonumber(left) < 1 then return 0 end
        redis.call('SET', KEYS[1], left - 1, 'KEEPTTL')
        return 1`,
    'count <= limit': `
        local count = redis.call('INCR', KEYS[1])
        if count == 1 then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
        return count <= tonumber(ARGV[1])`,
}

async function admitted(redis, name) {
    let admitted = 0
    let asTrue = 0
    const now = Date.now()
    try {
        for (let call = 0; call < CALLS; call++) {
            const answer = await redis.eval(scripts[name], 1, name, LIMIT, PERIOD, now)
            if (answer) admitted++
            if (answer === true) asTrue++
        }
    } catch {
        return 'an error'
    }
    return asTrue ? `${admitted} by true` : `${admitted}`
}

async function outcomes(redis) {
    const names = Object.keys(scripts)
    const first = await Promise.all(names.map((name) => admitted(redis, name)))
    await sleep(1.5 * PERIOD)
    const second = await Promise.all(names.map((name) => admitted(redis, name)))
    const seen = Object.fromEntries(names.map((name, number) => [name, [first[number], second[number]]]))
    return { ...seen, 'return 7 / 2': [await redis.eval('return 7 / 2', 0)] }
}

const version = (name) => JSON.parse(readFileSync(`node_modules/${name}/package.json`)).version
console.log('ioredis-mock', version('ioredis-mock'))
const redis = new Redis({ port: Number(process.argv[2]) })
const [real, mock] = await Promise.all([outcomes(redis), outcomes(new Mock())])
for (const name of Object.keys(real)) console.log(`${name}: Redis ${real[name]}; mock ${mock[name]}`)
const expected = {
    'token bucket': ['10,10', 'an error,an error'],
    'KEEPTTL': ['10,10', '10,0'],
    'count <= limit': ['10,10', '10 by true,10 by true'],
    'return 7 / 2': ['3', '3.5'],
}
const same = Object.entries(expected).every(([name, [one, other]]) => `${real[name]}` === one && `${mock[name]}` === other)
process.exit(same ? 0 : 1)
JS
node run.mjs "$port"
