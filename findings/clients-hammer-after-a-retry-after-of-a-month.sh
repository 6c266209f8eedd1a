#!/usr/bin/env bash
# got 14.6.6, axios-retry 4.5.0 (axios 1.21.1), undici 7.30.2 (RetryAgent) and openai 6.49.0 (all npm),
# with Node 20, 30 November 2026.
#
# A server denies a client whose quota for the month is used up: 429 with `Retry-After: 2200000`, 25.5
# days. One would guess that a client that honours `Retry-After` waits, or gives up because that is
# too long. These four, which do wait an hour for `3600`, send all their retries within a fraction of
# a second: the longer they are asked to wait, the sooner they come back. ky 1.14.3 waits both times.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
npm init -y >/dev/null
npm install --silent --no-fund --no-audit got@14.6.6 axios@1.21.1 axios-retry@4.5.0 undici@7.30.2 openai@6.49.0 ky@1.14.3

cat >run.mjs <<'JS'
import http from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import axios from 'axios'
import axiosRetry from 'axios-retry'
import got from 'got'
import ky from 'ky'
import OpenAI from 'openai'
import { Agent, RetryAgent, request } from 'undici'

const RETRIES = 3
const patient = axios.create()
axiosRetry(patient, { retries: RETRIES, retryCondition: (error) => error.response?.status === 429 })
const agent = new RetryAgent(new Agent(), { maxRetries: RETRIES, maxTimeout: Number.MAX_SAFE_INTEGER })
const clients = {
    got: (url) => got(url, { retry: { limit: RETRIES } }),
    'axios-retry': (url) => patient.get(url),
    undici: (url) => request(url, { dispatcher: agent }),
    openai: (url) => new OpenAI({ apiKey: 'none', baseURL: url, maxRetries: RETRIES }).models.list(),
    ky: (url) => ky(url, { retry: RETRIES, timeout: false }),
}

// Requests within three seconds to a server that denies all of them.
async function requests(call, retryAfter) {
    let count = 0
    const server = http.createServer((_, response) => {
        count++
        response.writeHead(429, { 'Retry-After': retryAfter, 'Content-Type': 'application/json' }).end('{}')
    })
    await new Promise((listening) => server.listen(0, '127.0.0.1', listening))
    call(`http://127.0.0.1:${server.address().port}/`).catch(() => {})
    await sleep(3000)
    server.closeAllConnections()
    server.close()
    return count
}

process.on('warning', () => {})
const found = {}
for (const [name, call] of Object.entries(clients)) {
    found[name] = { 'an hour': await requests(call, '3600'), '25 days': await requests(call, '2200000') }
}
console.log('requests within three seconds, by Retry-After:', found)
const hammer = ['got', 'axios-retry', 'undici', 'openai']
const asFound = Object.entries(found).every(([name, of]) => {
    return of['an hour'] === 1 && of['25 days'] === (hammer.includes(name) ? 1 + RETRIES : 1)
})
process.exit(asFound ? 0 : 1)
JS
node --no-warnings run.mjs
