#!/usr/bin/env bash
# throttled-queue 3.0.0 (npm), with Node 20 and its mock timers, 1 December 2026.
#
# A queue in front of a service that answers 429. As its README shows, the calls throw a
# `RetryError` with `retryAfter` and `pauseQueue: true`, which pauses the whole queue. Two calls are
# under way: the first is to come back after a minute, as its quota is used up, and the second after
# a second, by a limit for bursts. One would guess that the queue pauses for a minute. It goes on
# after a second, the denied call with the rest: the last answer sets the pause, whatever pause
# there is.
# If the answers come in the other order, it pauses for a minute.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
npm init -y >/dev/null
npm install --silent --no-fund --no-audit throttled-queue@3.0.0

cat >run.mjs <<'JS'
import { mock } from 'node:test'
import { RetryError, throttledQueue } from 'throttled-queue'

mock.timers.enable({ apis: ['setTimeout', 'Date'], now: Date.UTC(2026, 11, 1) })
async function departures(denials) {
    const start = Date.now()
    const left = []
    const throttle = throttledQueue({ maxPerInterval: 2, interval: 1000 })
    for (const seconds of [...denials, 0, 0]) {
        throttle(async ({ state }) => {
            left.push((Date.now() - start) / 1000)
            if (seconds === 0 || state.isRepeated) return
            state.isRepeated = true
            throw new RetryError({ retryAfter: seconds * 1000, pauseQueue: true })
        }, {})
    }
    for (let second = 0; second < 100; second++) {
        await new Promise((resolve) => setImmediate(resolve))
        mock.timers.tick(1000)
    }
    return left.join(' ')
}

const seen = [await departures([60, 0]), await departures([1, 60]), await departures([60, 1])]
console.log('a minute, and an answer of 200:', seen[0])
console.log('a second, then a minute:       ', seen[1])
console.log('a minute, then a second:       ', seen[2], '(the second at which each call leaves)')
process.exit(JSON.stringify(seen) === JSON.stringify(['0 0 60 60 61', '0 0 60 60 61 61', '0 0 1 1 2 2']) ? 0 : 1)
JS
node --no-warnings run.mjs
