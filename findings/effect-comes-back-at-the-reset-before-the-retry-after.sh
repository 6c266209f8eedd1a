#!/usr/bin/env bash
# effect 4.1.0 (npm), with Node 20, 1 December 2026. Takes half a minute.
#
# Effect's own HTTP client with its `withRateLimiter`, which repeats a 429 and reads `Retry-After` and
# the `RateLimit-*` and `X-RateLimit-*` fields. A service denies twice with `Retry-After: 4` because its
# limit for bursts is reached. Its other fields tell of its quota, of which much is left and which
# begins anew in a second. One would guess that the client waits four seconds each time: the drafts of
# the RateLimit fields say that "the Retry-After field MUST take precedence". It comes back after one
# second each time, as the reset says. The other way round, if the quota begins anew in half an hour, it
# waits for half an hour instead of four seconds. Without a reset it waits for four seconds.
# Services with two limits answer like that; GitHub's second limit, for example, names its wait in
# `Retry-After` beside the `x-ratelimit-reset` of the hour. A client that comes back too early may be
# denied for longer.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
npm init -y >/dev/null
npm install --silent --no-fund --no-audit effect@4.1.0

cat >run.mjs <<'JS'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { Effect, Layer } from 'effect'
import { FetchHttpClient, HttpClient } from 'effect/http'
import { RateLimiter } from 'effect/persistence'

const SECONDS = 15

// After how many seconds each request comes, of a call to a service that denies twice.
async function requests(fields) {
    const times = []
    const server = createServer((request, response) => {
        times.push(performance.now())
        response.writeHead(times.length <= 2 ? 429 : 200, times.length <= 2 ? fields : {})
        response.end()
    })
    await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
    const call = Effect.gen(function*() {
        const limiter = yield* RateLimiter.RateLimiter
        const client = (yield* HttpClient.HttpClient).pipe(
            HttpClient.withRateLimiter({ limiter, key: 'service', limit: 100, window: '1 second' }))
        return (yield* client.get(`http://127.0.0.1:${server.address().port}/`)).status
    }).pipe(
        Effect.timeoutOption(`${SECONDS} seconds`),
        Effect.provide(RateLimiter.layer.pipe(Layer.provide(RateLimiter.layerStoreMemory))),
        Effect.provide(FetchHttpClient.layer))
    await Effect.runPromise(call)
    server.close()
    server.closeAllConnections()
    return times.map((time) => Math.round((time - times[0]) / 1000))
}

const quota = { 'x-ratelimit-limit': '5000', 'x-ratelimit-remaining': '4900' }
const inHalfAnHour = String(Math.floor(Date.now() / 1000) + 1800)
const cases = [
    ['nothing else', {}],
    ['a quota that begins anew in a second', { ...quota, 'x-ratelimit-reset': '1' }],
    ['the same as RateLimit-*', { 'ratelimit-limit': '5000', 'ratelimit-remaining': '4900', 'ratelimit-reset': '1' }],
    ['a quota that begins anew in half an hour', { ...quota, 'x-ratelimit-reset': inHalfAnHour }],
]
console.log('effect', JSON.parse(readFileSync('node_modules/effect/package.json')).version)
const seen = await Promise.all(cases.map(([, fields]) => requests({ 'retry-after': '4', ...fields })))
cases.forEach(([name], number) =>
    console.log(`Retry-After: 4 and ${name}: requests within ${SECONDS} s at ${seen[number].join(', ')} s`))
process.exit(JSON.stringify(seen) === JSON.stringify([[0, 4, 8], [0, 1, 2], [0, 1, 2], [0]]) ? 0 : 1)
JS
node run.mjs
