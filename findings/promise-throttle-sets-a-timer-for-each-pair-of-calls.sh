#!/usr/bin/env bash
# promise-throttle 1.1.2 (npm), with Node 20 and its mock timers, 1 December 2026.
#
# A queue of calls, ten a second. One would guess that two thousand waiting calls cost twice as much
# as a thousand, and that each sets a timer or two. A thousand set 499,500 timers, two thousand
# 1,999,000, one for each pair: every call that is added sets a timer for the call at the head of
# the queue. When these timers fire together, one finds its call due, and all others set themselves
# again for the next. So a backlog of n calls wakes n timers for each call that leaves.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
npm init -y >/dev/null
npm install --silent --no-fund --no-audit promise-throttle@1.1.2

cat >run.mjs <<'JS'
import { mock } from 'node:test'
import PromiseThrottle from 'promise-throttle'

async function timersFor(calls) {
    mock.timers.enable({ apis: ['setTimeout', 'Date'], now: Date.UTC(2026, 11, 1) })
    let timers = 0
    const { setTimeout } = globalThis
    globalThis.setTimeout = (...args) => {
        timers++
        return setTimeout(...args)
    }
    const throttle = new PromiseThrottle({ requestsPerSecond: 10 })
    const start = Date.now()
    let done = 0
    for (let call = 0; call < calls; call++) throttle.add(async () => { done++ })
    while (done < calls) {
        mock.timers.tick(100)
        await new Promise((resolve) => setImmediate(resolve))
    }
    console.log(`${calls} calls at 10 a second take ${(Date.now() - start) / 1000} s and ${timers} timers`)
    mock.timers.reset()
    return timers
}

const seen = []
for (const calls of [10, 100, 1000, 2000]) seen.push(await timersFor(calls))
process.exit(seen.join() === '45,4950,499500,1999000' ? 0 : 1)
JS
node --no-warnings run.mjs
