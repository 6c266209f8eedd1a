#!/usr/bin/env bash
# @upstash/ratelimit 2.2.0 with @upstash/redis (npm) and Redis 7.0.15, with Node 20, 30 November 2026.
#
# A token bucket of ten that gains one token an hour. Seven are used; a call that costs five is denied;
# then calls of one. One would guess that three of those pass, as three tokens are left, and as
# `getRemaining` says. None passes for an hour: the denial puts the client into a cache, which is on by
# default, and the cache does not know costs. Processes that have not seen the denial admit them, so
# the answer depends on the process that is asked.
# Upstash's server is reached by HTTP. Here ten lines answer in its place, from a real Redis; they drop
# the first line of scripts, a flag that only Upstash's servers know.
set -euo pipefail
command -v redis-server >/dev/null || { echo "install redis-server (Debian: apt-get install redis-server)" >&2; exit 1; }
directory=$(mktemp -d)
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
redis-server --bind 127.0.0.1 --port "$port" --save '' --dir "$directory" >/dev/null &
trap 'kill %1; rm -rf "$directory"' EXIT
cd "$directory"
npm init -y >/dev/null
npm install --silent --no-fund --no-audit @upstash/ratelimit@2.2.0 @upstash/redis@1.39.0 ioredis@6.0.0

cat >run.mjs <<'JS'
import http from 'node:http'
import { createRequire } from 'node:module'
import { Ratelimit } from '@upstash/ratelimit'
import { Redis } from '@upstash/redis'
import IoRedis from 'ioredis'

const store = new IoRedis(Number(process.argv[2]))
const answer = (command) =>
    store.call(...command.map((word) => String(word).replace(/^#!lua.*\n/, ''))).then(
        (result) => ({ result }),
        (error) => ({ error: error.message }),
    )
const server = http.createServer(async (request, response) => {
    let body = ''
    for await (const chunk of request) body += chunk
    const sent = JSON.parse(body)
    response.end(JSON.stringify(await (Array.isArray(sent[0]) ? Promise.all(sent.map(answer)) : answer(sent))))
})
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
const url = `http://127.0.0.1:${server.address().port}`
const redis = new Redis({ url, token: 'none', responseEncoding: false, enableTelemetry: false })

// One process each: they share the bucket in Redis and nothing else.
const limiter = Ratelimit.tokenBucket(1, '1 h', 10)
const [denied, other] = [1, 2].map(() => new Ratelimit({ redis, limiter, prefix: 'shared' }))
const call = async (process, rate) => {
    const { success, reason } = await process.limit('a client', { rate })
    return success ? 'admitted' : `denied (${reason ?? 'by the bucket'})`
}
const answers = []
for (const [name, process, cost] of [
    ['first', denied, 7], ['first', denied, 5], ['first', denied, 1], ['other', other, 1], ['first', denied, 1],
]) {
    const { remaining } = await process.getRemaining('a client')
    answers.push(await call(process, cost))
    console.log(`${name} process, ${remaining} left, a call of ${cost}: ${answers.at(-1)}`)
}
const { remaining } = await denied.getRemaining('a client')
console.log('@upstash/ratelimit', createRequire(import.meta.url)('@upstash/ratelimit/package.json').version, `${remaining} left`)
const expected = ['admitted', 'denied (by the bucket)', 'denied (cacheBlock)', 'admitted', 'denied (cacheBlock)']
process.exit(String(answers) === String(expected) && remaining === 2 ? 0 : 1)
JS
node run.mjs "$port"
