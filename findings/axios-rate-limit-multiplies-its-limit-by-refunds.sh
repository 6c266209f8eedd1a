#!/usr/bin/env bash
# axios-rate-limit 1.9.0 with axios 1.21.1 (both npm), with Node 20, 30 November 2026.
#
# Two requests a second, and `shouldCountRequest`, which gives a permit back, here for what a cache
# answered. Ten cached answers come within a second, then thirty requests. One would guess that two
# leave each second, in fifteen seconds. All leave within two: the counter is set back to 0 by a
# timer that its step from 0 to 1 starts. Each refund takes it to 0 again, and the next request
# starts one more timer. The ten timers of the first second set the counter back ten times in the
# next. The requests that they admit start ten new ones: the limit stays multiplied while requests
# wait.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
npm init -y >/dev/null
npm install --silent --no-fund --no-audit axios-rate-limit@1.9.0 axios@1.21.1

cat >run.mjs <<'JS'
import { createRequire } from 'node:module'
import { setTimeout as sleep } from 'node:timers/promises'
import axios from 'axios'
import rateLimit from 'axios-rate-limit'

// When thirty requests left, in milliseconds, and the most of them within any 950 ms.
async function departures(refunds) {
    const departed = []
    const adapter = async (config) => {
        if (config.url !== '/cached') departed.push(performance.now())
        return { data: '', status: 200, statusText: 'OK', headers: {}, config }
    }
    const client = rateLimit(axios.create({ adapter }), {
        limits: [{ maxRequests: 2, duration: '1s' }],
        shouldCountRequest: (config) => config.url !== '/cached',
    })
    if (refunds) {
        for (let call = 0; call < 10; call++) {
            await client.get('/cached')
            await sleep(90)
        }
    }
    await Promise.all(Array.from({ length: 30 }, () => client.get('/counted')))
    const within = departed.map((at) => departed.filter((other) => at <= other && other < at + 950).length)
    return { took: Math.round(departed.at(-1) - departed[0]), most: Math.max(...within) }
}

console.log('axios-rate-limit', createRequire(import.meta.url)('axios-rate-limit/package.json').version)
const without = await departures(false)
const after = await departures(true)
console.log(`without refunds:   30 requests in ${without.took} ms, at most ${without.most} within 950 ms`)
console.log(`after ten refunds: 30 requests in ${after.took} ms, at most ${after.most} within 950 ms`)
process.exit(without.took > 13_000 && without.most === 2 && after.took < 3_000 && after.most > 10 ? 0 : 1)
JS
node run.mjs
