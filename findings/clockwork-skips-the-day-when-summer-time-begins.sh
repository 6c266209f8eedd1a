#!/usr/bin/env bash
# clockwork 3.0.1 (Debian 12: ruby-clockwork; ActiveSupport 6.1.7), with Ruby 3.1, 1 December 2026.
#
# `every(1.day, 'reset', at: '12:00', tz: 'Europe/Berlin')`, a job at noon such as one that resets a
# quota. On 30 March 2025 the clocks go from 2:00 to 3:00 at night. One would guess that noon is not
# concerned. The job does not run on that day, and two days share a quota: it runs if the clock shows
# noon and the last run is 24 hours ago, and that day's noon comes 23 hours after the one before. When
# it is 24 hours ago, the clock shows 13:00. Any time after the change is left out like that, in each
# zone with summer time. With a period of 23 hours it runs each day, and in autumn it is right.
set -euo pipefail
ruby -e 'require "clockwork"' 2>/dev/null || { echo "install clockwork (Debian: apt-get install ruby-clockwork)" >&2; exit 1; }
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT

cat >"$directory/run.rb" <<'RUBY'
require 'active_support/all'
require 'clockwork'

# The noons on which the job runs within a week from that day, with a tick each minute.
def runs(period, from)
  zone = ActiveSupport::TimeZone['Europe/Berlin']
  ran = []
  manager = Clockwork::Manager.new
  manager.configure { |config| config[:logger] = Logger.new(File::NULL) }
  manager.handler { |_, time| ran << time.in_time_zone(zone).strftime('%-d %b') }
  manager.every(period, 'reset', at: '12:00', tz: 'Europe/Berlin')
  start = zone.parse(from)
  (start.to_i...(start + 7.days).to_i).step(60) { |second| manager.tick(Time.at(second)) }
  ran
end

spring = runs(1.day, '2025-03-27')
autumn = runs(1.day, '2025-10-23')
shorter = runs(23.hours, '2025-03-27')
puts "every day in spring:     #{spring.join(', ')}"
puts "every day in autumn:     #{autumn.join(', ')}"
puts "each 23 hours in spring: #{shorter.join(', ')}"
exit spring == shorter - ['30 Mar'] && shorter.size == 7 && autumn.size == 7
RUBY
dpkg-query --show ruby-clockwork ruby-activesupport
ruby -W0 "$directory/run.rb"
