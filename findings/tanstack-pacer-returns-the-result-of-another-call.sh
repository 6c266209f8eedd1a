#!/usr/bin/env bash
# @tanstack/pacer 0.22.0 (npm), with Node 20, 30 November 2026.
#
# A limit of ten calls a minute around a function that fetches a user, and three calls at once, well
# below the limit. One would guess that each call returns its own user. All three return the last one:
# `AsyncRateLimiter` stores the newest result, and `maybeExecute` returns what is stored when its
# caller's turn comes. The functions finish in the same turn of the event loop, as answers from a
# cache do. With `onError`, which keeps errors from being thrown, a call that fails returns the user
# of the call before it, although the documentation promises `undefined`.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
npm init -y >/dev/null
npm install --silent --no-fund --no-audit @tanstack/pacer@0.22.0

cat >run.mjs <<'JS'
import { setTimeout as sleep } from 'node:timers/promises'
import { AsyncRateLimiter } from '@tanstack/pacer'

const users = new Map([[1, 'Ann'], [2, 'Ben'], [3, 'Cem']])
async function find(id) {
    if (!users.has(id)) throw new Error(`no user ${id}`)
    return users.get(id)
}
const limiter = (options) => new AsyncRateLimiter(find, { limit: 10, window: 60_000, ...options })

const together = limiter()
const atOnce = await Promise.all([1, 2, 3].map((id) => together.maybeExecute(id)))

const apart = limiter()
const inTurn = []
for (const id of [1, 2, 3]) {
    inTurn.push(await apart.maybeExecute(id))
    await sleep(10)
}

const quiet = limiter({ onError: (error) => console.log('onError:', error.message) })
const found = await quiet.maybeExecute(1)
const missing = await quiet.maybeExecute(4)

console.log('users 1, 2 and 3, one after the other:', inTurn)
console.log('users 1, 2 and 3, at once:', atOnce)
console.log('user 1, then user 4, which there is not:', [found, missing])
const expected = [['Ann', 'Ben', 'Cem'], ['Cem', 'Cem', 'Cem'], ['Ann', 'Ann']]
process.exit(JSON.stringify([inTurn, atOnce, [found, missing]]) === JSON.stringify(expected) ? 0 : 1)
JS
node run.mjs
