#!/usr/bin/env bash
# elysia-rate-limit 4.6.3 (npm; elysia 1.4.30), with Node 20, 1 December 2026.
#
# Two limits on one service, five a minute for each address and five a minute for each account, each
# by its own `generator`. One would guess that both hold. The second is dropped without a word: an
# account that comes from thirty addresses gets thirty requests through. Elysia keeps one of all
# plugins with the same name and seed, and this one's seed is made of the numbers and the scope alone.
# With five and six a minute both hold. So do five and five if one is a function, `max: () => 5`: then
# the seed is random.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
npm init -y >/dev/null
npm install --silent --no-fund --no-audit elysia@1.4.30 elysia-rate-limit@4.6.3

cat >run.mjs <<'JS'
import { readFileSync } from 'node:fs'
import { Elysia } from 'elysia'
import { rateLimit } from 'elysia-rate-limit'

const limit = (max, field) => rateLimit({ max, duration: 60_000, generator: (request) => request.headers.get(field) })

// How many of thirty requests are admitted, of one address with many accounts, and the other way round.
async function admitted(ofAddress, ofAccount) {
    const app = new Elysia()
        .use(limit(ofAddress, 'address'))
        .use(limit(ofAccount, 'account'))
        .get('/', () => 'done')
    const counts = []
    for (const clients of [
        (number) => ({ address: 'one', account: `account ${number}` }),
        (number) => ({ address: `address ${number}`, account: 'one' }),
    ]) {
        let count = 0
        for (let number = 0; number < 30; number++) {
            const response = await app.handle(new Request('http://localhost/', { headers: clients(number) }))
            count += response.status === 200
        }
        counts.push(count)
    }
    return counts
}

const { version } = JSON.parse(readFileSync('node_modules/elysia-rate-limit/package.json'))
console.log(`elysia-rate-limit ${version}, limits for each address and for each account`)
const seen = {
    'five and five': await admitted(5, 5),
    'five and six': await admitted(5, 6),
    'five and a function': await admitted(5, () => 5),
}
for (const [limits, [address, account]] of Object.entries(seen)) {
    console.log(`${limits}: one address gets ${address} of thirty through, one account ${account}`)
}
process.exit(JSON.stringify(Object.values(seen)) === '[[5,30],[5,6],[5,5]]' ? 0 : 1)
JS
node run.mjs
