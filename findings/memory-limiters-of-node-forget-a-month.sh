#!/usr/bin/env bash
# rate-limiter-flexible 11.4.0, hono-rate-limiter 0.5.4 (hono 4.13.19), p-throttle 8.1.1 and p-queue
# 9.3.5 (all npm), with Node 20, 30 November 2026.
#
# Two calls in 30 days, in memory. One would guess that the third waits or is denied. All four let it
# pass a millisecond later: they forget a window by a timer of its length, and a timer of Node runs at
# most 2^31 - 1 ms, 24.8 days. A longer one fires at once, with a warning that names no library. With
# 24 days the limit holds, but in p-throttle for the next window only: what it queues for the one
# after that runs at once. bottleneck 2.19.5 reads the clock instead, and holds both.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
npm init -y >/dev/null
npm install --silent --no-fund --no-audit rate-limiter-flexible@11.4.0 hono@4.13.19 hono-rate-limiter@0.5.4 \
    p-throttle@8.1.1 p-queue@9.3.5 bottleneck@2.19.5

cat >run.mjs <<'JS'
import { setTimeout as sleep } from 'node:timers/promises'
import Bottleneck from 'bottleneck'
import { Hono } from 'hono'
import { rateLimiter } from 'hono-rate-limiter'
import PQueue from 'p-queue'
import pThrottle from 'p-throttle'
import { RateLimiterMemory } from 'rate-limiter-flexible'

const DAY = 86_400_000
const CALLS = 6

// How many of six calls each lets pass within a second, at two in so many days.
const limiters = {
    'rate-limiter-flexible': async (days) => {
        const limiter = new RateLimiterMemory({ points: 2, duration: (days * DAY) / 1000 })
        return passed(() => limiter.consume('a user').then(() => true, () => false))
    },
    'hono-rate-limiter': async (days) => {
        const app = new Hono()
        app.use(rateLimiter({ windowMs: days * DAY, limit: 2, keyGenerator: () => 'a user' }))
        app.get('/', (context) => context.text('here'))
        return passed(async () => (await app.request('/')).status === 200)
    },
    'p-throttle': (days) => queued(pThrottle({ limit: 2, interval: days * DAY })(() => ran++)),
    'p-queue': (days) => {
        const queue = new PQueue({ intervalCap: 2, interval: days * DAY })
        return queued(() => queue.add(() => ran++))
    },
    bottleneck: (days) => {
        const amount = { reservoir: 2, reservoirRefreshAmount: 2 }
        const queue = new Bottleneck({ ...amount, reservoirRefreshInterval: days * DAY })
        return queued(() => queue.schedule(async () => ran++))
    },
}
let ran = 0

async function passed(call) {
    let count = 0
    for (let index = 0; index < CALLS; index++) {
        count += await call()
        await sleep(100)
    }
    return count
}

async function queued(call) {
    ran = 0
    for (let index = 0; index < CALLS; index++) call()
    await sleep(1000)
    return ran
}

process.on('warning', () => {})
const found = {}
for (const [name, run] of Object.entries(limiters)) found[name] = [await run(24), await run(30)]
console.log('calls that passed, of six, at two in 24 days and two in 30 days:', found)
const usual = [2, CALLS]
const expected = {
    'rate-limiter-flexible': usual,
    'hono-rate-limiter': usual,
    'p-throttle': [4, CALLS],
    'p-queue': usual,
    bottleneck: [2, 2],
}
process.exit(JSON.stringify(found) === JSON.stringify(expected) ? 0 : 1)
JS
node --no-warnings run.mjs
