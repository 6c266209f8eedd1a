#!/usr/bin/env bash
# bentocache 1.6.1 (npm), with Node 20, 1 December 2026.
#
# A page is cached for half a second, and bentocache may give out the old one for an hour more
# (`grace`) while the service denies with 429. `graceBackoff`, ten seconds by default, "sets a delay
# between retry attempts" of a factory that fails, as one would "not want to retry on every subsequent
# request", say the documentation of AdonisJS, which is built on it. One would guess that of a hundred
# gets within a second, one asks the service. All hundred do, whatever the backoff: by default
# (`timeout: 0`) the old page is returned at once and the service is asked in the background, and a
# failure in the background sets no backoff. So the cache keeps up the load that the service denies,
# one request after the other, and nobody sees an error. With `timeout: '1s'` the get waits for
# the service, the failure is seen, and one get of the hundred asks.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
npm init -y >/dev/null
npm install --silent --no-fund --no-audit bentocache@1.6.1

cat >run.mjs <<'JS'
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { BentoCache, bentostore } from 'bentocache'
import { memoryDriver } from 'bentocache/drivers/memory'

// How often the service is asked by a hundred gets of an old page, and what they return.
async function asked(options) {
    const cache = new BentoCache({
        default: 'pages',
        grace: '1h',
        ...options,
        stores: { pages: bentostore().useL1Layer(memoryDriver()) },
    })
    let requests = 0
    const service = async () => {
        requests++
        if (requests > 1) throw new Error('429 Too Many Requests')
        return 'page'
    }
    const get = () => cache.getOrSet({ key: 'page', ttl: '500ms', factory: service })
    await get()
    await sleep(1_000)
    const pages = new Set()
    for (let number = 0; number < 100; number++) {
        pages.add(await get())
        await sleep(5)
    }
    return [requests - 1, ...pages]
}

console.log('bentocache', JSON.parse(readFileSync('node_modules/bentocache/package.json')).version)
const cases = [{}, { graceBackoff: '5m' }, { timeout: '1s' }, { timeout: '1s', graceBackoff: '5m' }]
const seen = await Promise.all(cases.map(asked))
cases.forEach((options, number) => {
    const [requests, page] = seen[number]
    console.log(`${JSON.stringify(options)}: a hundred gets return '${page}' and ask the service ${requests} times`)
})
process.exit(JSON.stringify(seen) === JSON.stringify([[100, 'page'], [100, 'page'], [1, 'page'], [1, 'page']]) ? 0 : 1)
JS
node run.mjs
