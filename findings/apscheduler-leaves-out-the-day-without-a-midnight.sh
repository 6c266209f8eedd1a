#!/usr/bin/env bash
# APScheduler 3.11.3, croniter 7.0.0 and cronsim 2.8 (all PyPI; tzdata 2026.6), with Python 3.11,
# 1 December 2026.
#
# A job at midnight, such as one that resets a quota, through the year 2025. In Havana and Cairo the
# clocks go from 0:00 to 1:00 when summer time begins, so that day has no midnight. One would guess
# that APScheduler's cron trigger runs the job an hour later, as it does with a job at 2:30 in
# Berlin, where the clocks go from 2:00 to 3:00. It leaves the day out: the next run is the midnight
# after, and two days share a quota. croniter and cronsim run it at 1:00.
# Havana also has a day with two midnights in autumn. APScheduler says that a job may run twice
# then. croniter, which rq uses, runs it twice as well, and its documentation does not say so.
# cronsim runs it once.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
python3 -m venv venv
venv/bin/pip --quiet --disable-pip-version-check install \
    apscheduler==3.11.3 croniter==7.0.0 cronsim==2.8 tzdata==2026.6

cat >run.py <<'PY'
import sys
from collections import Counter
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from apscheduler.triggers.cron import CronTrigger
from croniter import croniter
from cronsim import CronSim


def apscheduler(expression, start):
    trigger = CronTrigger.from_crontab(expression, timezone=start.tzinfo)
    run = trigger.get_next_fire_time(None, start)
    while True:
        yield run
        run = trigger.get_next_fire_time(run, run)


def with_croniter(expression, start):
    runs = croniter(expression, start)
    while True:
        yield runs.get_next(datetime)


def unusual_days(runs, zone):
    """The days of 2025 with no run or several, and at which times."""
    days = Counter()
    for run in runs:
        if run.astimezone(zone).year > 2025:
            break
        days[run.astimezone(zone).date()] += 1
    year = (date(2025, 1, 1) + timedelta(day) for day in range(365))
    return {f"{day:%d %b}": days[day] for day in year if days[day] != 1}


libraries = {"APScheduler": apscheduler, "croniter": with_croniter, "cronsim": CronSim}
seen = {}
for place, expression in (("America/Havana", "0 0 * * *"), ("Africa/Cairo", "0 0 * * *"), ("Europe/Berlin", "30 2 * * *")):
    zone = ZoneInfo(place)
    start = datetime(2024, 12, 31, 12, tzinfo=zone)
    for name, library in libraries.items():
        seen[place, name] = unusual_days(library(expression, start), zone)
        print(f"{place:14} {expression:10} {name:11} all days once but for: {seen[place, name]}")
sys.exit(list(seen.values()) != [
    {"09 Mar": 0, "02 Nov": 2}, {"02 Nov": 2}, {},
    {"25 Apr": 0}, {}, {},
    {"26 Oct": 2}, {"26 Oct": 2}, {},
])
PY
PYTHONTZPATH='' venv/bin/python run.py
