#!/usr/bin/env bash
# rate-limit-threshold 0.2.1 (npm), with Node 20, 30 November 2026.
#
# Two calls in two seconds, and twenty callers at once. One would guess that two leave each two
# seconds, in eighteen seconds. Two leave at once, and eighteen two seconds later, together: each
# caller computes its wait from the oldest departure, and notes its own only when it leaves. So those
# who wait do not see each other. Callers that come one after the other are held to the limit.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
npm init -y >/dev/null
npm install --silent --no-fund --no-audit rate-limit-threshold@0.2.1

cat >run.mjs <<'JS'
import { readFileSync } from 'node:fs'
import { RateLimitThreshold } from 'rate-limit-threshold'

const LIMIT = 2
const PERIOD = 2

// When each call left, in milliseconds since the first.
async function departures(run) {
    const limiter = new RateLimitThreshold(LIMIT, PERIOD)
    const start = Date.now()
    const at = []
    await run(async () => {
        await limiter.limit()
        at.push(Date.now() - start)
    })
    return at
}

const inTurn = await departures(async (call) => {
    for (let number = 0; number < 6; number++) await call()
})
const together = await departures((call) => Promise.all(Array.from({ length: 20 }, call)))
const { version } = JSON.parse(readFileSync('node_modules/rate-limit-threshold/package.json'))
console.log('rate-limit-threshold', version, `${LIMIT} in ${PERIOD} seconds, departures in ms:`)
console.log(' 6 calls in turn:', inTurn.join(' '))
console.log('20 calls at once:', together.join(' '))
process.exit(inTurn.at(-1) >= 3_900 && together.at(-1) < 8_000 ? 0 : 1)
JS
node run.mjs
