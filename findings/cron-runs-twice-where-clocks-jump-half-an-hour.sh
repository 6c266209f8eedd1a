#!/usr/bin/env bash
# cron 4.4.0, cron-parser 5.10.6 and croner 11.0.1 (all npm), with Node 20, 1 December 2026.
#
# On Lord Howe Island summer time is half an hour: on 5 October 2025 the clocks go from 2:00 to
# 2:30, and on 6 April from 2:00 to 1:30. A job each day at 2:15. One would guess that it runs once
# on that day in October, a little later, as a job at 2:30 does in Berlin, where the hour from 2:00
# is left out. cron runs it twice, at 1:45 and 2:45. cron-parser, which BullMQ uses, leaves the day
# out. croner runs it at 2:30.
# A job each half hour has 48 runs a day, 49 on 6 April. With cron-parser it has 48, and its runs
# are an hour apart once.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
npm init -y >/dev/null
npm install --silent --no-fund --no-audit cron@4.4.0 cron-parser@5.10.6 croner@11.0.1

cat >run.mjs <<'JS'
import { mock } from 'node:test'
import { CronJob } from 'cron'
import { CronExpressionParser } from 'cron-parser'
import { Cron } from 'croner'

const libraries = {
    cron: (pattern, timeZone, start, runs) => {
        mock.timers.enable({ apis: ['Date'], now: start })
        const job = CronJob.from({ cronTime: pattern, onTick() {}, timeZone })
        const dates = job.nextDates(runs).map((date) => date.toJSDate())
        mock.timers.reset()
        return dates
    },
    'cron-parser': (pattern, tz, start, runs) => {
        const times = CronExpressionParser.parse(pattern, { tz, currentDate: start })
        return times.take(runs).map((time) => time.toDate())
    },
    croner: (pattern, timezone, start, runs) => new Cron(pattern, { timezone, paused: true }).nextRuns(runs, start),
}
function clock(date, timeZone) {
    const parts = { timeZone, month: 'short', day: 'numeric', hour: '2-digit', minute: '2-digit', hourCycle: 'h23' }
    return new Intl.DateTimeFormat('en-GB', parts).format(date).replace(' at ', ', ')
}
// The runs within one day of the zone's clocks.
function runsOn(day, pattern, timeZone, start, library) {
    const dates = libraries[library](pattern, timeZone, new Date(start), 120)
    return dates.map((date) => clock(date, timeZone)).filter((text) => text.startsWith(`${day},`))
}

const island = 'Australia/Lord_Howe'
const seen = {}
for (const library of Object.keys(libraries)) {
    const jump = runsOn('5 Oct', '15 2 * * *', island, '2025-10-03T00:00:00Z', library)
    const back = runsOn('6 Apr', '*/30 * * * *', island, '2025-04-05T00:00:00Z', library)
    const berlin = runsOn('30 Mar', '30 2 * * *', 'Europe/Berlin', '2025-03-28T12:00:00Z', library)
    seen[library] = [jump.length, back.length, berlin.length]
    console.log(`${library.padEnd(11)} 2:15 each day: ${jump.join(' and ') || 'no run on 5 Oct'}; each half hour:`,
        `${back.length} runs on 6 Apr; 2:30 in Berlin: ${berlin.join(' and ')}`)
}
const expected = { cron: [2, 49, 1], 'cron-parser': [0, 48, 1], croner: [1, 49, 1] }
process.exit(JSON.stringify(seen) === JSON.stringify(expected) ? 0 : 1)
JS
node --no-warnings run.mjs
