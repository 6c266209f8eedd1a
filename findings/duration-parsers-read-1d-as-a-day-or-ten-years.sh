#!/usr/bin/env bash
# ms 2.1.3, @lukeed/ms 2.0.2, parse-duration 2.1.9 and timestring 7.0.0 (npm), pytimeparse 1.1.10,
# pytimeparse2 1.7.1, humanfriendly 10.0, durationpy 0.11 and timelength 3.0.4 (PyPI), humantime 2.3.0
# and duration-str 0.21.0 (Rust), with Node 20 and Python 3.11, 1 December 2026.
#
# Eleven parsers of durations, as the period of a limit or of a ban is written in a configuration. All
# that read `1h30m` and `1d` read the same. One would guess that what one of them reads, the others
# read alike or refuse. `1h30` is an hour and a half to parse-duration, an hour and 30 seconds to
# duration-str, and an hour to timestring and timelength, which drop the rest. `1M` is a minute to
# eight, and a month to humantime and timelength, of two lengths. `1D` is a day to eight, and ten
# years, a decade, to timelength. `-1m` is a minute to timestring and timelength. So a limit that
# moves from one program's configuration to another's may become another limit, and no error says so.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
python3 -m venv venv
venv/bin/pip --quiet --disable-pip-version-check install pytimeparse==1.1.10 pytimeparse2==1.7.1 \
    humanfriendly==10.0 durationpy==0.11 timelength==3.0.4
npm init -y >/dev/null
npm install --silent --no-fund --no-audit ms@2.1.3 @lukeed/ms@2.0.2 parse-duration@2.1.9 timestring@7.0.0

cat >Cargo.toml <<'TOML'
[package]
name = "finding"
version = "0.0.0"
edition = "2021"

[dependencies]
humantime = "=2.3.0"
duration-str = { version = "=0.21.0", default-features = false }
TOML
mkdir src
# Each program writes `parser<tab>duration<tab>seconds` for what it reads.
cat >src/main.rs <<'RUST'
fn main() {
    for text in std::env::args().skip(1) {
        if let Ok(duration) = humantime::parse_duration(&text) {
            println!("humantime\t{text}\t{}", duration.as_secs_f64());
        }
        if let Ok(duration) = duration_str::parse(&text) {
            println!("duration-str\t{text}\t{}", duration.as_secs_f64());
        }
    }
}
RUST
cat >run.mjs <<'JS'
import { parse as lukeed } from '@lukeed/ms'
import ms from 'ms'
import parseDuration from 'parse-duration'
import timestring from 'timestring'

const parsers = { ms, '@lukeed/ms': lukeed, 'parse-duration': parseDuration, timestring: (text) => timestring(text, 'ms') }
for (const text of process.argv.slice(2)) {
    for (const [name, parse] of Object.entries(parsers)) {
        const duration = parse(text)
        if (duration != null && !Number.isNaN(duration)) console.log(`${name}\t${text}\t${duration / 1_000}`)
    }
}
JS
cat >run.py <<'PY'
import subprocess
import sys

import durationpy
import humanfriendly
import pytimeparse
import pytimeparse2
from timelength import TimeLength

TEXTS = ["1h30m", "1d", "1h30", "1M", "1D", "-1m"]


def timelength(text):
    length = TimeLength(text).result
    return length.seconds if length.success else None


PARSERS = {
    "pytimeparse": pytimeparse.parse,
    "pytimeparse2": pytimeparse2.parse,
    "humanfriendly": humanfriendly.parse_timespan,
    "durationpy": lambda text: durationpy.from_str(text).total_seconds(),
    "timelength": timelength,
}
REFUSALS = (humanfriendly.InvalidTimespan, durationpy.DurationError)
read = {text: {} for text in TEXTS}
for text in TEXTS:
    for name, parse in PARSERS.items():
        try:
            seconds = parse(text)
        except REFUSALS:
            continue
        if seconds is not None:
            read[text][name] = float(seconds)
for command in (["node", "run.mjs"], ["target/debug/finding"]):
    for line in subprocess.run(command + TEXTS, capture_output=True, check=True, text=True).stdout.splitlines():
        name, text, seconds = line.split("\t")
        read[text][name] = float(seconds)
for text, by_parser in read.items():
    for seconds in sorted(set(by_parser.values())):
        names = sorted(name for name in by_parser if by_parser[name] == seconds)
        print(f"{text:6} {seconds:13,.1f} s  {', '.join(names)}")


def readers(text, seconds):
    return {name for name, value in read[text].items() if value == seconds}


as_found = set(read["1h30m"].values()) == {5400} and set(read["1d"].values()) == {86_400}
as_found &= read["1h30"] == {"parse-duration": 5400, "duration-str": 3630, "timestring": 3600, "timelength": 3600}
as_found &= len(readers("1M", 60)) == 8 and readers("1M", 2_630_016) == {"humantime"}
as_found &= readers("1M", 2_635_200) == {"timelength"}
as_found &= readers("1D", 315_360_000) == {"timelength"} and len(readers("1D", 86_400)) == len(read["1D"]) - 1
as_found &= readers("-1m", 60) == {"timestring", "timelength"}
sys.exit(not as_found)
PY
CARGO_TARGET_DIR=$directory/target cargo build --quiet
venv/bin/python run.py
