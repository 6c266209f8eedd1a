#!/usr/bin/env bash
# qrate 1.2.4 (npm), with Node 20, 30 November 2026.
#
# A queue with a rate limit. Its README says: "rateLimit = 0.5 - one every two seconds". One would
# guess five tasks within nine seconds. One runs, and the others never do: each second the tokens are
# set to the rate, not added, so there is half a token for good, and a task needs a whole one. 1.5
# and 2.5 a second are 1 and 2 for the same reason.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
npm init -y >/dev/null
npm install --silent --no-fund --no-audit qrate@1.2.4

cat >run.cjs <<'JS'
const qrate = require('qrate')

const SECONDS = 9
const rates = [0.5, 1, 1.5, 2, 2.5]
const ran = rates.map((rate) => {
    const counter = { tasks: 0 }
    const queue = qrate(async () => counter.tasks++, 1, rate)
    queue.push(Array.from({ length: 100 }, (_, number) => number))
    return counter
})
setTimeout(() => {
    console.log('qrate', require('qrate/package.json').version)
    rates.forEach((rate, index) => console.log(`${rate} a second: ${ran[index].tasks} tasks within ${SECONDS} seconds`))
    const [half, one, oneAndHalf, two, twoAndHalf] = ran.map(({ tasks }) => tasks)
    const isAsFound = half === 1 && one >= 5 && oneAndHalf <= one + 1 && two > one && twoAndHalf <= two + 2
    process.exit(isAsFound ? 0 : 1)
}, SECONDS * 1_000 - 500)
JS
node run.cjs
