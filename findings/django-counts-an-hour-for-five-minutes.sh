#!/usr/bin/env bash
# Django 5.2.19 and django-ratelimit 4.1.0 (both PyPI), with Python 3.11 and a clock that time-machine
# 3.6.0 sets, 1 December 2026.
#
# Five requests an hour, `@ratelimit(key='ip', rate='5/h')`, counted in one of Django's caches. A
# client sends five requests each five minutes. One would guess the same of each cache: five in an
# hour. The cache in memory admits that. The caches in files and in a database admit all. The count is
# made with a timeout of an hour, and `incr` of these two reads it and sets it again, with the cache's
# default timeout: 300 seconds. So the count of a client that pauses for five minutes is gone,
# whatever the period. Django's documentation of `incr` does not speak of timeouts.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
python3 -m venv venv
venv/bin/pip --quiet --disable-pip-version-check install django==5.2.19 django-ratelimit==4.1.0 time-machine==3.6.0

cat >run.py <<'PY'
import sys
from datetime import datetime, timezone
from importlib.metadata import version

import django
import time_machine
from django.conf import settings

settings.configure(
    CACHES={
        "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
        "files": {"BACKEND": "django.core.cache.backends.filebased.FileBasedCache", "LOCATION": "cache"},
        "database": {"BACKEND": "django.core.cache.backends.db.DatabaseCache", "LOCATION": "cache"},
    },
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "database"}},
    USE_TZ=True,
)
django.setup()

from django.core.cache import caches
from django.core.management import call_command
from django.test import RequestFactory
from django_ratelimit.core import is_ratelimited

call_command("createcachetable", verbosity=0)
request = RequestFactory().get("/")


def limited(group, rate="5/h"):
    return is_ratelimited(request, group=group, key="ip", rate=rate, increment=True)


def admitted_in_an_hour(cache):
    """Five requests each five minutes, from the first of a window to its end."""
    settings.RATELIMIT_USE_CACHE = cache
    with time_machine.travel(datetime(2026, 12, 1, 10, tzinfo=timezone.utc), tick=False) as clock:
        # Windows begin at a second that depends on the key: finds the one at which the count begins anew.
        while not limited("hour", "1/h"):
            clock.shift(1)
        while limited("hour", "1/h"):
            clock.shift(1)
        admitted = 0
        for _ in range(11):
            admitted += sum(not limited("hour") for _ in range(5))
            clock.shift(301)
        return admitted


def left_after_incr(cache):
    """Whether a value that was set for an hour and incremented is there ten minutes later."""
    with time_machine.travel(datetime(2026, 12, 1, 10, tzinfo=timezone.utc), tick=False) as clock:
        caches[cache].set("count", 1, 3600)
        caches[cache].incr("count")
        clock.shift(600)
        return caches[cache].get("count") is not None


print("Django", version("django"), "django-ratelimit", version("django-ratelimit"))
seen = {}
for cache in ("default", "files", "database"):
    seen[cache] = admitted_in_an_hour(cache), left_after_incr(cache)
    print(f"{cache:8} {seen[cache][0]} requests admitted within 55 minutes at 5 an hour;",
          "the count is", "there" if seen[cache][1] else "gone", "ten minutes after incr")
sys.exit(seen != {"default": (5, True), "files": (55, False), "database": (55, False)})
PY
venv/bin/python run.py
