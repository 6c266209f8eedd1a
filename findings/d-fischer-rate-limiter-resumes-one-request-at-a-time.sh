#!/usr/bin/env bash
# @d-fischer/rate-limiter 1.1.0 (npm), with Node 20 and its mock timers, 1 December 2026.
#
# A hundred requests per 30 seconds: `TimeBasedRateLimiter`. It is paused, twenty requests come, and
# it is resumed a second later. One would guess that all twenty leave at once, as there is room for
# a hundred. One leaves, and one more each 30 seconds, for nearly ten minutes: `resume` starts a
# single request, and only the end of a request's 30 seconds starts the next.
# A request that comes in the meantime finds room and leaves at once, before all that wait.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
npm init -y >/dev/null
npm install --silent --no-fund --no-audit @d-fischer/rate-limiter@1.1.0

cat >run.mjs <<'JS'
import { mock } from 'node:test'
import { TimeBasedRateLimiter } from '@d-fischer/rate-limiter'

mock.timers.enable({ apis: ['setTimeout', 'Date'], now: Date.UTC(2026, 11, 1) })
async function pass(seconds) {
    for (let second = 0; second < seconds; second++) {
        await new Promise((resolve) => setImmediate(resolve))
        mock.timers.tick(1000)
    }
}
async function departures({ isPaused, hasNewcomer }) {
    const left = {}
    const limiter = new TimeBasedRateLimiter({
        bucketSize: 100,
        timeFrame: 30_000,
        logger: { minLevel: 'critical' },
        doRequest: async (name) => { left[name] = (Date.now() - start) / 1000 },
    })
    const start = Date.now()
    if (isPaused) limiter.pause()
    for (let request = 1; request <= 20; request++) limiter.request(`#${request}`)
    await pass(1)
    limiter.resume()
    await pass(10)
    if (hasNewcomer) limiter.request('new')
    await pass(700)
    return left
}

const show = (left) => Object.entries(left).map(([name, second]) => `${name} ${second}`).join(', ')
const seen = [
    await departures({ isPaused: false, hasNewcomer: false }),
    await departures({ isPaused: true, hasNewcomer: false }),
    await departures({ isPaused: true, hasNewcomer: true }),
]
console.log('20 requests, not paused, and the second at which each leaves:', show(seen[0]))
console.log('paused for a second:', show(seen[1]))
console.log('the same, and a request ten seconds later:', show(seen[2]))
const [plain, paused, joined] = seen
const isOneByOne = Array.from({ length: 20 }, (_, index) => paused[`#${index + 1}`] === 1 + 30 * index)
process.exit(plain['#20'] === 0 && isOneByOne.every(Boolean) && joined.new === 11 && joined['#2'] > 11 ? 0 : 1)
JS
node --no-warnings run.mjs
