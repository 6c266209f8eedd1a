#!/usr/bin/env bash
# bottleneck 2.19.5 (npm), with Node 20 and its mock timers, 30 November 2026.
#
# Two jobs an hour, by `reservoir: 2` and `reservoirRefreshInterval`. Three jobs are offered each ten
# minutes, for two hours. One would guess that a limiter for each key, `Bottleneck.Group`, lets through
# what a single limiter with the same options does: two an hour. It lets two through each time, twelve
# an hour. A group deletes a limiter that was idle for five minutes, and the used-up reservoir with it;
# the next job begins with a full one. Raise `timeout` above the refresh interval.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
npm init -y >/dev/null
npm install --silent --no-fund --no-audit bottleneck@2.19.5

cat >run.mjs <<'JS'
import { createRequire } from 'node:module'
import { mock } from 'node:test'

mock.timers.enable({ apis: ['setTimeout', 'setInterval', 'Date'] })
const Bottleneck = createRequire(import.meta.url)('bottleneck')
const MINUTE = 60_000
const options = {
    reservoir: 2,
    reservoirRefreshAmount: 2,
    reservoirRefreshInterval: 60 * MINUTE,
    highWater: 0,
    strategy: Bottleneck.strategy.OVERFLOW,
}

// Lets the mock clock run; promises settle after each second of it.
async function pass(minutes) {
    for (let second = 0; second < minutes * 60; second++) {
        mock.timers.tick(1_000)
        for (let turn = 0; turn < 50; turn++) await null
    }
}

// The minutes at which jobs run.
async function runs(limiter) {
    const start = Date.now()
    const at = []
    for (let minute = 0; minute < 120; minute += 10) {
        for (let job = 0; job < 3; job++) {
            limiter().schedule(async () => at.push(Math.floor((Date.now() - start) / MINUTE))).catch(() => {})
        }
        await pass(10)
    }
    return at
}

const single = new Bottleneck(options)
const group = new Bottleneck.Group(options)
const patient = new Bottleneck.Group({ ...options, timeout: 120 * MINUTE })
const results = {
    'a limiter': await runs(() => single),
    'a group': await runs(() => group.key('a user')),
    'a group, timeout of two hours': await runs(() => patient.key('a user')),
}
console.log('bottleneck', createRequire(import.meta.url)('bottleneck/package.json').version)
for (const [name, at] of Object.entries(results)) console.log(`${name}: ${at.length} in two hours, at minutes ${at}`)
const [alone, grouped, longer] = Object.values(results).map((at) => at.length)
process.exit(alone === 4 && grouped === 24 && longer === 4 ? 0 : 1)
JS
NODE_NO_WARNINGS=1 node run.mjs
