#!/usr/bin/env bash
# @fetchkit/ffetch 4.3.0 (npm), with Node 20, 1 December 2026.
#
# A client with a circuit breaker as in its README, `circuit: { threshold: 5, reset: 30000 }`, and a
# service that answers everything with 503, or with 429. One would guess that after five such answers
# the circuit is open for thirty seconds. It never opens, with retries neither: a hundred calls are a
# hundred requests, and three hundred with two retries. The breaker counts a 503 and a 429 as failures,
# and when the call returns that response, as fetch does, it counts the call as a success and begins
# anew. It opens only if a single call has five failures, here with `retries: 5`.
# With `throwOnHttpError: true` it opens at three instead of five, and so it does for a service that
# can't be reached: such a failure is counted when it happens and once more when the call throws.
# The README calls it "automatic failure protection".
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
npm init -y >/dev/null
npm install --silent --no-fund --no-audit @fetchkit/ffetch@4.3.0

cat >run.mjs <<'JS'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import createClient from '@fetchkit/ffetch'

const CALLS = 100

// How many requests a hundred calls in turn send before the circuit is open.
async function requests(status, options) {
    let requests = 0
    const server = createServer((request, response) => {
        requests++
        response.writeHead(status).end()
    })
    await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
    const client = createClient({ circuit: { threshold: 5, reset: 30_000 }, retryDelay: 1, ...options })
    for (let call = 0; call < CALLS; call++) await client(`http://127.0.0.1:${server.address().port}/`).catch(() => {})
    server.close()
    server.closeAllConnections()
    return requests
}

// How many calls in turn fail otherwise than by the circuit, if the service can't be reached.
async function unreachable() {
    const server = createServer()
    await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
    const { port } = server.address()
    await new Promise((resolve) => server.close(resolve))
    const client = createClient({ circuit: { threshold: 5, reset: 30_000 } })
    let tried = 0
    for (let call = 0; call < CALLS; call++) {
        await client(`http://127.0.0.1:${port}/`).catch(({ name }) => { if (name !== 'CircuitOpenError') tried++ })
    }
    return tried
}

console.log('ffetch', JSON.parse(readFileSync('node_modules/@fetchkit/ffetch/package.json')).version)
const cases = [{}, { retries: 2 }, { retries: 5 }, { throwOnHttpError: true }]
const seen = []
for (const status of [503, 429]) {
    for (const options of cases) {
        seen.push(await requests(status, options))
        console.log(`${status}, ${JSON.stringify(options)}: ${CALLS} calls send ${seen.at(-1)} requests`)
    }
}
seen.push(await unreachable())
console.log(`not reachable: ${seen.at(-1)} of ${CALLS} calls try`)
process.exit(JSON.stringify(seen) === JSON.stringify([100, 300, 6, 3, 100, 300, 6, 3, 3]) ? 0 : 1)
JS
node run.mjs
