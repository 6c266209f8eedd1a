#!/usr/bin/env bash
# Schedule::RateLimiter 0.01 (Debian 12: libschedule-ratelimiter-perl), with Perl 5.36, 1 December
# 2026.
#
# At most one event a second, `Schedule::RateLimiter->new(iterations => 1, seconds => 1)`, and a loop
# that calls `event` and works. By default `event` sleeps until the event may happen. One would guess
# one event each second. After the first there are two each second, both at once: an event that had to
# sleep is noted with the time before its sleep. When it happens, it is a second old by the notes, so
# the next one need not sleep. In the same way, a limit of five a second runs six. With `block => 0`,
# which returns false instead of sleeping, and a program that tries again each 10 ms, there is one.
set -euo pipefail
perl -MSchedule::RateLimiter -e 1 2>/dev/null ||
    { echo "install Schedule::RateLimiter (Debian: apt-get install libschedule-ratelimiter-perl)" >&2; exit 1; }
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT

cat >"$directory/run.pl" <<'PERL'
use strict;
use warnings;
use Schedule::RateLimiter;
use Time::HiRes qw(sleep time);

# The times of events at so many a second.
sub events {
    my ($iterations, $block, $count) = @_;
    my $throttle = Schedule::RateLimiter->new(iterations => $iterations, seconds => 1, block => $block);
    my $start = time;
    my @times;
    while (@times < $count) {
        if ($throttle->event) {
            push @times, time - $start;
        } else {
            sleep 0.01;
        }
    }
    return map { sprintf '%.1f', $_ } @times;
}

my @one = events(1, 1, 9);
my @five = events(5, 1, 29);
my @trying = events(1, 0, 5);
print "one a second, event waits: @one\n";
print "five a second, event waits: @five\n";
print "one a second, event denies: @trying\n";
exit !($one[-1] < 4.5 && $five[-1] < 4.5 && $trying[-1] > 3.9);
PERL
perl -MSchedule::RateLimiter -e 'print "Schedule::RateLimiter $Schedule::RateLimiter::VERSION\n"'
perl "$directory/run.pl"
