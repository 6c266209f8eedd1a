#!/usr/bin/env bash
# @fastify/rate-limit 11.2.0 (npm; fastify 5.12.8, ioredis 6.0.0), with Node 20 and Redis 7.0.15,
# 30 November 2026.
#
# `exponentialBackoff: true` doubles the `Retry-After` of each further denial: 1, 2, 4 .. 64 s. One
# would guess that both stores deny for that long. The store in memory admits the client after one
# `timeWindow`, here 1.5 s after it announced 64 s: it doubles the time it reports, and expires the
# record by the window. The store in Redis denies. Neither has a bound: the 54th denial and all later
# ones announce 285,616 years, and Redis keeps the key for that long.
set -euo pipefail
directory=$(mktemp -d)
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
trap 'redis-cli -p "$port" shutdown nosave >/dev/null 2>&1 || true; rm -rf "$directory"' EXIT
cd "$directory"
redis-server --port "$port" --bind 127.0.0.1 --save '' --daemonize yes >/dev/null
npm init -y >/dev/null
npm install --silent --no-fund --no-audit @fastify/rate-limit@11.2.0 fastify@5.12.8 ioredis@6.0.0

cat >run.mjs <<'JS'
import { setTimeout as sleep } from 'node:timers/promises'
import rateLimit from '@fastify/rate-limit'
import Fastify from 'fastify'
import Redis from 'ioredis'

async function backoff(redis) {
    const app = Fastify()
    await app.register(rateLimit, { max: 1, timeWindow: 1_000, exponentialBackoff: true, redis })
    app.get('/', async () => 'admitted')
    const call = async () => {
        const { statusCode, headers } = await app.inject('/')
        return statusCode === 200 ? 'admitted' : Number(headers['retry-after'])
    }
    const calls = async (number) => {
        const answers = []
        while (answers.length < number) answers.push(await call())
        return answers
    }
    const first = await calls(8)
    await sleep(1_500)
    const [later] = await calls(1)
    const last = (await calls(60)).at(-1)
    await app.close()
    return { first, later, last }
}

const redis = new Redis({ port: Number(process.argv[2]), host: '127.0.0.1' })
const memory = await backoff()
const shared = await backoff(redis)
const [key] = await redis.keys('*')
const years = Math.round((await redis.pttl(key)) / 86_400_000 / 365)
redis.disconnect()
console.log({ memory, shared, years })
const announced = [memory, shared].every(({ first }) => first.join() === 'admitted,1,2,4,8,16,32,64')
process.exit(announced && memory.later === 'admitted' && shared.later === 128 && years === 285_616 ? 0 : 1)
JS
node run.mjs "$port"
