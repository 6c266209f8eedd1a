#!/usr/bin/env bash
# fast-ratelimit 3.0.1 (npm), with Node 20 and its mock timers, 1 December 2026.
#
# Ten calls a minute. A page shows each second whether there is a token left: `hasTokenSync`, which
# takes none. After a minute the user begins to call, twenty times a second. One would guess that
# ten calls are admitted in the next minute, as they are without the page. Six hundred are: each
# question about a user without a count sets a timer, and that deletes the user's count a minute
# later, even if the count began after the question. So one of the sixty timers begins a new window
# each second.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
npm init -y >/dev/null
npm install --silent --no-fund --no-audit fast-ratelimit@3.0.1

cat >run.mjs <<'JS'
import { mock } from 'node:test'
import rate from 'fast-ratelimit'

mock.timers.enable({ apis: ['setTimeout'] })
function admitted(questions) {
    const limiter = new rate.FastRateLimit({ threshold: 10, ttl: 60 })
    for (let second = 0; second < 60; second++) {
        if (second < questions) limiter.hasTokenSync('ann')
        mock.timers.tick(1000)
    }
    let calls = 0
    for (let second = 0; second < 60; second++) {
        for (let call = 0; call < 20; call++) calls += limiter.consumeSync('ann')
        mock.timers.tick(1000)
    }
    return calls
}

const seen = [0, 1, 6, 60].map((questions) => [questions, admitted(questions)])
for (const [questions, calls] of seen)
    console.log(`${questions} questions in the minute before: ${calls} calls admitted in the next, limit 10`)
process.exit(JSON.stringify(seen.map(([, calls]) => calls)) === process.argv[2] ? 0 : 1)
JS
node --no-warnings run.mjs '[10,10,60,600]'
