#!/usr/bin/env bash
# superagent (npm) 10.4.2, with Node 20, 29 November 2026.
#
# `.retry(3)` repeats a 429. One would guess that it waits as the response's `Retry-After: 2` says,
# or backs off. It sends all three repetitions at once, within a fraction of a second, and ends with
# the 429. (got, ky, axios-retry and undici wait.)
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
npm init -y >/dev/null
npm install --silent --no-fund --no-audit superagent@10.4.2

cat >run.cjs <<'JS'
const http = require('node:http')
const superagent = require('superagent')

const arrivals = []
const server = http.createServer((request, response) => {
    arrivals.push(Date.now())
    // Told to come back in two seconds; whoever does is let in.
    const isDue = arrivals.length > 1 && arrivals.at(-1) - arrivals[0] >= 2000
    response.writeHead(isDue ? 200 : 429, { 'Retry-After': '2' }).end()
})
server.listen(0, '127.0.0.1', async () => {
    const url = `http://127.0.0.1:${server.address().port}/`
    const status = await superagent.get(url).retry(3).then((r) => r.status, (e) => e.status)
    const gaps = arrivals.slice(1).map((at, index) => at - arrivals[index])
    console.log({ version: require('superagent/package.json').version, status, requests: arrivals.length, gaps })
    server.close()
    process.exit(status === 429 && arrivals.length === 4 && gaps.every((gap) => gap < 1000) ? 0 : 1)
})
JS
node run.cjs
