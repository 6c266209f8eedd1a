#!/usr/bin/env bash
# opossum 10.0.0 (npm), with Node 20 and its mock timers, 1 December 2026.
#
# A breaker that stays open for 30 seconds. `toJSON` writes its state down, and a new process begins
# with it: the README offers that for containers that come and go. A breaker runs for an hour, opens,
# and is written down and brought back a second later. One would guess that it is open for 29 seconds
# more, as the first one is. It is half open and lets the next call through to the failing service:
# `lastTimerAt` is to say when it opened, and is set when the breaker is made. So only a breaker that
# opens within its first 30 seconds is still open when it is brought back.
# With a cache it may never open, by default at more than half of the calls failed: a thousand calls
# reach the service and fail, and two answers from the cache come before each. The circuit stays
# closed: the failures are compared with all calls, also those that never reached the service.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
npm init -y >/dev/null
npm install --silent --no-fund --no-audit opossum@10.0.0

cat >run.mjs <<'JS'
import { readFileSync } from 'node:fs'
import { mock } from 'node:test'
import CircuitBreaker from 'opossum'

mock.timers.enable({ apis: ['Date', 'setTimeout', 'setInterval'], now: 1e12 })

const RESET = 30_000
const stateOf = (breaker) => (breaker.opened ? 'open' : breaker.halfOpen ? 'half open' : 'closed')

// The states of a breaker that opens at that age, and of its copy, a second after it opened.
async function broughtBack(age) {
    const down = async () => { throw new Error('down') }
    const first = new CircuitBreaker(down, { resetTimeout: RESET })
    mock.timers.tick(age)
    await first.fire().catch(() => {})
    const { state, status } = JSON.parse(JSON.stringify(first))
    mock.timers.tick(1_000)
    const copy = new CircuitBreaker(down, { resetTimeout: RESET, state, status })
    return [stateOf(first), stateOf(copy)]
}

async function withCache(cachedBetween) {
    let reached = 0
    const breaker = new CircuitBreaker(async (user) => {
        if (user === 'known') return user
        reached++
        throw new Error('down')
    }, { cache: true, cacheGetKey: (user) => user, errorThresholdPercentage: 50 })
    await breaker.fire('known')
    for (let number = 0; number < 1_000; number++) {
        for (let hit = 0; hit < cachedBetween; hit++) await breaker.fire('known')
        await breaker.fire(`new ${number}`).catch(() => {})
    }
    return [reached, stateOf(breaker)]
}

const { version } = JSON.parse(readFileSync('node_modules/opossum/package.json'))
const seen = [await broughtBack(10_000), await broughtBack(3_600_000), await withCache(0), await withCache(2)]
console.log(`opossum ${version}, a second after it opened:`)
console.log(`  opened 10 s after it was made:      ${seen[0][0]}; brought back: ${seen[0][1]}`)
console.log(`  opened an hour after it was made:   ${seen[1][0]}; brought back: ${seen[1][1]}`)
console.log(`no cached answer before each failure:   ${seen[2][1]} after ${seen[2][0]} failure`)
console.log(`two cached answers before each failure: ${seen[3][1]} after ${seen[3][0]} failures`)
const expected = [['open', 'open'], ['open', 'half open'], [2, 'open'], [1_000, 'closed']]
process.exit(JSON.stringify(seen) === JSON.stringify(expected) ? 0 : 1)
JS
node --no-warnings run.mjs
