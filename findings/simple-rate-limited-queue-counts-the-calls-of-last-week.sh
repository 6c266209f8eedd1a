#!/usr/bin/env bash
# simple-rate-limited-queue 1.2.0 (npm), with Node 20 and its mock timers, 1 December 2026.
#
# Ten calls an hour, and one call a day. One would guess that none ever waits. The eleventh waits
# for an hour, and so does each tenth after it: an interval begins only when a call has to wait, and
# until then the queue counts every call since it was made.
# With `maxInProgress: 1` and ten calls a second that take 10 ms each, one would guess 0.1 s for ten
# calls. They take nine seconds: a call that ends starts no other; only the next interval does.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
npm init -y >/dev/null
npm install --silent --no-fund --no-audit simple-rate-limited-queue@1.2.0

cat >run.mjs <<'JS'
import { mock } from 'node:test'
import { RateLimitedQueue } from 'simple-rate-limited-queue'

mock.timers.enable({ apis: ['setTimeout', 'Date'], now: Date.UTC(2026, 11, 1) })
async function pass(milliseconds, step) {
    for (let passed = 0; passed < milliseconds; passed += step) {
        await new Promise((resolve) => setImmediate(resolve))
        mock.timers.tick(step)
    }
}

const hourly = new RateLimitedQueue({ maxPerInterval: 10, intervalLength: 3_600_000 })
const waits = []
for (let day = 1; day <= 25; day++) {
    const asked = Date.now()
    hourly.schedule(async () => waits.push((Date.now() - asked) / 60_000))
    await pass(86_400_000, 600_000)
}
console.log('10 an hour, one call a day: minutes that each waits:', waits.join(' '))

const single = new RateLimitedQueue({ maxPerInterval: 10, maxInProgress: 1, intervalLength: 1000 })
const start = Date.now()
const starts = []
for (let call = 0; call < 10; call++) {
    single.schedule(() => {
        starts.push((Date.now() - start) / 1000)
        return new Promise((resolve) => setTimeout(resolve, 10))
    })
}
await pass(15_000, 10)
console.log('10 a second, one at a time, 10 ms each: they start in second', starts.join(' '))
const late = waits.flatMap((wait, index) => (wait === 60 ? [index + 1] : wait === 0 ? [] : ['?']))
process.exit(late.join() === '11,21' && starts.join() === '0,1,2,3,4,5,6,7,8,9' ? 0 : 1)
JS
node --no-warnings run.mjs
