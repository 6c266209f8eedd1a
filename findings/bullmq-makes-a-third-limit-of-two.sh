#!/usr/bin/env bash
# BullMQ 6.7.0 (npm; ioredis 6.0.0) with Redis 7.0.15, with Node 20, 1 December 2026. Takes half a minute.
#
# A queue with a global limit, `setGlobalRateLimit(2, 3_600_000)`: two jobs an hour. A worker has a
# limit of its own, `limiter: { max: 100, duration: 1_000 }`; as the documentation says, "it won't
# override the global one". One would guess two jobs within some seconds. Two run each second, 7,200
# an hour: the number is the global one, the period the worker's. The other way round, a global limit
# of ten a second and a worker's of two an hour make ten jobs, and then none for an hour.
# With either limit alone, two jobs run.
set -euo pipefail
command -v redis-server >/dev/null || { echo "install redis-server (Debian: apt-get install redis-server)" >&2; exit 1; }
directory=$(mktemp -d)
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$directory"' EXIT
cd "$directory"
npm init -y >/dev/null
npm install --silent --no-fund --no-audit bullmq@6.7.0 ioredis@6.0.0
redis-server --bind 127.0.0.1 --port "$port" --save '' --dir "$directory" >/dev/null &

cat >run.mjs <<'JS'
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { Queue, Worker } from 'bullmq'

const connection = { host: '127.0.0.1', port: Number(process.argv[2]) }
const SECOND = 1_000
const HOUR = 3_600_000
const SECONDS = 5

// How many of forty jobs run within five seconds.
async function jobsRun(name, global, limiter) {
    const queue = new Queue(name, { connection })
    if (global) await queue.setGlobalRateLimit(global.max, global.duration)
    await queue.addBulk(Array.from({ length: 40 }, () => ({ name: 'job', data: {} })))
    let ran = 0
    const worker = new Worker(name, async () => { ran++ }, { connection, limiter })
    await sleep(SECONDS * SECOND)
    await Promise.all([worker.close(true), queue.close()])
    return ran
}

const show = (limit) => (limit ? `${limit.max} in ${limit.duration / SECOND} s` : 'none')
const cases = [
    [{ max: 2, duration: HOUR }, undefined],
    [undefined, { max: 2, duration: HOUR }],
    [{ max: 2, duration: HOUR }, { max: 100, duration: SECOND }],
    [{ max: 10, duration: SECOND }, { max: 2, duration: HOUR }],
]
console.log('BullMQ', JSON.parse(readFileSync('node_modules/bullmq/package.json')).version)
const seen = await Promise.all(cases.map((limits, number) => jobsRun(`queue-${number}`, ...limits)))
cases.forEach(([global, limiter], number) =>
    console.log(`global: ${show(global)}; worker: ${show(limiter)}: ${seen[number]} jobs in ${SECONDS} s`))
process.exit(seen[0] === 2 && seen[1] === 2 && seen[2] >= 8 && seen[2] <= 12 && seen[3] === 10 ? 0 : 1)
JS
node run.mjs "$port"
