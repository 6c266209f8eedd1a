#!/usr/bin/env bash
# ratelimit-header-parser (npm) 0.1.0, with Node 20, 29 November 2026.
#
# The parser reads `X-RateLimit-*`, and the `RateLimit` fields of the IETF's drafts 6 and 7. A
# response has the `RateLimit` field of draft 11 (a list of structured fields since draft 8) and the
# `X-RateLimit-*` trio beside it. One would guess that it is read by the trio. But the one field's
# name decides: the result is an object of NaNs and an invalid date, neither the trio's numbers nor
# `undefined`, as for a response without fields.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
npm init -y >/dev/null
npm install --silent --no-fund --no-audit ratelimit-header-parser@0.1.0

cat >run.mjs <<'JS'
import { parseRateLimit } from 'ratelimit-header-parser'

const trio = { 'x-ratelimit-limit': '100', 'x-ratelimit-remaining': '7', 'x-ratelimit-reset': '30' }
const draft11 = { ratelimit: '"default";r=7;t=30', 'ratelimit-policy': '"default";q=100;w=60' }
const draft7 = { ratelimit: 'limit=100, remaining=7, reset=30', 'ratelimit-policy': '100;w=60' }
const read = (headers) => parseRateLimit({ headers: new Headers(headers) })
const results = { trio: read(trio), draft7: read(draft7), draft11: read(draft11), both: read({ ...trio, ...draft11 }) }
console.log(results)
const isNothing = (result) => result !== undefined && [result.limit, result.remaining].every(Number.isNaN)
const isRead = (result) => result?.limit === 100 && result?.remaining === 7
process.exit(isRead(results.trio) && isRead(results.draft7) && isNothing(results.draft11) && isNothing(results.both) ? 0 : 1)
JS
node run.mjs
