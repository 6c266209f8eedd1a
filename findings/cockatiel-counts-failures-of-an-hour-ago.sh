#!/usr/bin/env bash
# cockatiel 4.0.0 (npm), with Node 20 and its mock clock, 30 November 2026.
#
# A circuit breaker that opens at half of the calls failed within 30 seconds, given at least one call
# each two seconds: `SamplingBreaker` with `duration: 30_000` and `minimumRps: 0.5`. One would guess
# that failures of an hour ago do not count. Fourteen at once leave the circuit closed, as 15 are
# needed. An hour without a call later, the first failure opens it.
# One call in two minutes is far below one in two seconds, yet the fifteenth failure in a row opens
# the circuit as well, after 28 minutes. The breaker keeps thirty windows of a second and counts them
# all. A call clears one window, however long ago the last call was. Polly (.NET) has such a breaker
# too and, by its source, drops windows by their age.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
npm init -y >/dev/null
npm install --silent --no-fund --no-audit cockatiel@4.0.0

cat >run.mjs <<'JS'
import { mock } from 'node:test'
import { circuitBreaker, CircuitState, handleAll, SamplingBreaker } from 'cockatiel'

mock.timers.enable({ apis: ['Date'], now: Date.UTC(2026, 10, 30) })
const breaker = () => circuitBreaker(handleAll, {
    halfOpenAfter: 10_000,
    breaker: new SamplingBreaker({ threshold: 0.5, duration: 30_000, minimumRps: 0.5 }),
})
async function fail(circuit, times, pause) {
    for (let call = 0; call < times && circuit.state === CircuitState.Closed; call++) {
        if (call > 0) mock.timers.tick(pause)
        await circuit.execute(() => { throw new Error('failed') }).catch(() => {})
    }
    return CircuitState[circuit.state]
}
// So many failures at once, a pause, and one more.
async function onceMore(times, pause) {
    const circuit = breaker()
    const states = [await fail(circuit, times, 0)]
    mock.timers.tick(pause)
    return [...states, await fail(circuit, 1, 0)].join(', then ')
}
async function slowly(pause) {
    const circuit = breaker()
    const start = Date.now()
    const state = await fail(circuit, 100, pause)
    return `${state} after ${(Date.now() - start) / 60_000} minutes`
}

const seen = {
    '14 failures at once, one more an hour later': await onceMore(14, 3_600_000),
    '13 failures at once, one more an hour later': await onceMore(13, 3_600_000),
    'a failure each two minutes': await slowly(120_000),
}
console.log(seen)
const expected = ['Closed, then Open', 'Closed, then Closed', 'Open after 28 minutes']
process.exit(JSON.stringify(Object.values(seen)) === JSON.stringify(expected) ? 0 : 1)
JS
node --no-warnings run.mjs
