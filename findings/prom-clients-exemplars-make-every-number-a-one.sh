#!/usr/bin/env bash
# prom-client 15.1.3 (npm), with Node 20, 1 December 2026.
#
# A counter of the tokens that calls used, by client: `tokens.labels('a').inc(100)`. Then
# `enableExemplars: true` is set, so that a count can be linked to a trace. One would guess that it
# counts as before. It counts 1, for no client: with that switch `inc` is another function, which takes
# one object, and what is anything else is read as nothing given, of which the default is 1. The
# README says that "the format for inc() and observe() calls are different if exemplars are enabled",
# yet the `inc` of `labels()` has no other format, by TypeScript's types, than a number. `inc(100)`
# and `inc({ client: 'a' }, 100)` count 1 for no client too, without error or warning, and the types
# allow them. A histogram raises an error for the like, and its `labels('a').observe(5)` works.
# So where the switch is set and one call forgotten, a thousand tokens are reported as ten, and a
# budget or an alert by client sees none.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
npm init -y >/dev/null
npm install --silent --no-fund --no-audit prom-client@15.1.3

cat >run.mjs <<'JS'
import { readFileSync } from 'node:fs'
import client from 'prom-client'

async function counted(enableExemplars) {
    const registers = [new client.Registry()]
    registers[0].setContentType(client.Registry.OPENMETRICS_CONTENT_TYPE)
    const options = { help: 'help', registers, enableExemplars }
    const counter = () => new client.Counter({ ...options, name: 'tokens', labelNames: ['client'] })
    const waits = new client.Histogram({ ...options, name: 'waits', labelNames: ['client'], buckets: [1, 10] })
    waits.labels('a').observe(5)
    const seen = {}
    for (const [form, count] of Object.entries({
        "labels('a').inc(100)": (tokens) => tokens.labels('a').inc(100),
        "inc({ client: 'a' }, 100)": (tokens) => tokens.inc({ client: 'a' }, 100),
        'inc(100)': (tokens) => tokens.inc(100),
        "inc({ labels: { client: 'a' }, value: 100 })": (tokens) =>
            tokens.inc({ labels: { client: 'a' }, value: 100 }),
    })) {
        registers[0].removeSingleMetric('tokens')
        const tokens = counter()
        try {
            for (let call = 0; call < 10; call++) count(tokens)
            const lines = (await registers[0].metrics()).split('\n')
            seen[form] = lines.find((line) => line.startsWith('tokens_total')).replace('tokens_total', '').trim()
        } catch ({ message }) {
            seen[form] = message
        }
    }
    try {
        waits.observe(5)
        seen['observe(5)'] = 'no error'
    } catch ({ message }) {
        seen['observe(5)'] = message
    }
    return seen
}

console.log('prom-client', JSON.parse(readFileSync('node_modules/prom-client/package.json')).version, 'ten calls each:')
const [without, with_] = [await counted(false), await counted(true)]
console.log('without exemplars:', without)
console.log('with exemplars:', with_)
const forms = (seen) => Object.values(seen).slice(0, 3)
const right = forms(without).join('; ') === '{client="a"} 1000; {client="a"} 1000; 1000'
const wrong = forms(with_).join('; ') === '10; 10; 10'
const own = Object.values(with_)[3] === '{client="a"} 1000'
process.exit(right && wrong && own && with_['observe(5)'].startsWith('Value is not a valid number') ? 0 : 1)
JS
node run.mjs
