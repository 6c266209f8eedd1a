#!/usr/bin/env bash
# p-ratelimit 1.0.1 (npm), with Node 20 and its mock timers, 1 December 2026.
#
# Two calls at once, and none waits for more than two seconds: `concurrency: 2, maxDelay: 2000`.
# Four calls of five seconds each come together. Two run, and two are rejected after two seconds, as
# the README says. One would guess that calls an hour later run. All are rejected, for good: a call
# that was rejected while it waited is still taken from the queue when a place is free. It is
# counted as running then, and nothing counts it back. So each timeout takes a place, and the second
# takes the last one.
# With `rate: 2, interval: 1000` and no concurrency, a single call that runs for a minute holds up
# all that wait for the rate: the timer that looks after them is not set while a call is running.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
npm init -y >/dev/null
npm install --silent --no-fund --no-audit p-ratelimit@1.0.1

cat >run.mjs <<'JS'
import { mock } from 'node:test'
import ratelimit from 'p-ratelimit'

mock.timers.enable({ apis: ['setTimeout', 'Date'], now: Date.UTC(2026, 11, 1) })
const runs = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds))
async function pass(seconds) {
    for (let tenth = 0; tenth < 10 * seconds; tenth++) {
        await new Promise((resolve) => setImmediate(resolve))
        mock.timers.tick(100)
    }
}
async function outcomes(limit, calls, milliseconds) {
    const seen = { done: 0, rejected: 0 }
    for (let call = 0; call < calls; call++)
        limit(() => runs(milliseconds)).then(() => seen.done++, () => seen.rejected++)
    await pass(60)
    return seen
}

const places = ratelimit.pRateLimit({ concurrency: 2, maxDelay: 2000 })
const first = await outcomes(places, 4, 5000)
await pass(3600)
const later = []
for (let call = 0; call < 3; call++) later.push(await outcomes(places, 1, 10))
console.log('four calls at once:', first, ' an hour later, one a minute:', later)

const limit = ratelimit.pRateLimit({ rate: 2, interval: 1000 })
const start = Date.now()
const starts = []
for (const milliseconds of [60_000, 10, 10, 10]) {
    limit(() => {
        starts.push(Math.floor((Date.now() - start) / 1000))
        return runs(milliseconds)
    })
}
await pass(90)
console.log('two a second, the first call takes a minute; the four start in second', starts)
const expected = [{ done: 2, rejected: 2 }, Array(3).fill({ done: 0, rejected: 1 }), [0, 0, 60, 60]]
process.exit(JSON.stringify([first, later, starts]) === JSON.stringify(expected) ? 0 : 1)
JS
node --no-warnings run.mjs
