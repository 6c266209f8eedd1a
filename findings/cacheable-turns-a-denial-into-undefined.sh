#!/usr/bin/env bash
# cacheable 2.5.0 (npm), with Node 20, 1 December 2026.
#
# A function that calls a service is cached, `cache.wrap(call, { ttl: '1h' })`, and a loop around it
# tries again when it throws. The service denies the first call with an error. One would guess that the
# error comes out of the wrapped function and the loop tries again, or that it is returned: the README
# says that wrap "will not cache the value and will return the error". `undefined` comes out, as if
# that were the answer, so nothing is tried again, and who asks for a quota or a permission
# goes on with none. Only an `error` event of the cache tells, and without a listener nothing does.
# `throwErrors: true` makes `getOrSet` throw, and `wrap` not. With `cacheErrors: true`, which the
# README calls `cacheError`, the first call still gives `undefined`, and all others within the hour the
# error as a value. `CacheableMemory` does the same to functions that are not asynchronous.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
npm init -y >/dev/null
npm install --silent --no-fund --no-audit cacheable@2.5.0

cat >run.mjs <<'JS'
import { readFileSync } from 'node:fs'
import { Cacheable, CacheableMemory } from 'cacheable'

// A service that denies the first so many calls.
function service(denials) {
    let calls = 0
    return async () => {
        calls++
        if (calls <= denials) throw new Error('429')
        return `answer ${calls}`
    }
}

// What the caller gets who tries again after an error, up to three times.
async function withRetries(call) {
    for (let attempt = 1; ; attempt++) {
        try {
            return `${await call()}, in ${attempt}`
        } catch (error) {
            if (attempt === 3) return `${error} thrown, in ${attempt}`
        }
    }
}

const wrapped = (denials, options) => new Cacheable().wrap(service(denials), { ttl: '1h', ...options })
const cached = wrapped(2, { cacheErrors: true })
const getOrSet = new Cacheable()
const fetched = service(1)
const memory = new CacheableMemory().wrap(() => { throw new Error('429') }, { ttl: '1h', key: 'service' })
const seen = {
    'not cached': await withRetries(service(1)),
    'wrap': await withRetries(wrapped(1)),
    'wrap, throwErrors': await withRetries(wrapped(1, { throwErrors: true })),
    'getOrSet, throwErrors': await withRetries(() => getOrSet.getOrSet('key', fetched, { ttl: '1h', throwErrors: true })),
    'wrap, cacheErrors, first': await withRetries(cached),
    'wrap, cacheErrors, second': await withRetries(cached),
    'CacheableMemory': await withRetries(memory),
}
console.log('cacheable', JSON.parse(readFileSync('node_modules/cacheable/package.json')).version)
for (const [name, outcome] of Object.entries(seen)) console.log(`${name}: ${outcome} attempts`)
const expected = [
    'answer 2, in 2', 'undefined, in 1', 'undefined, in 1', 'answer 2, in 2',
    'undefined, in 1', 'Error: 429, in 1', 'undefined, in 1',
]
process.exit(JSON.stringify(Object.values(seen)) === JSON.stringify(expected) ? 0 : 1)
JS
node run.mjs
