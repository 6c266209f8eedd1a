#!/usr/bin/env bash
# golang.org/x/time/rate 0.3.0 (Debian 12: golang-golang-x-time-dev), with Go 1.19, 1 December 2026.
# Takes half a minute.
#
# One call a second, `rate.NewLimiter(1, 1)`. Ten goroutines wait in `Wait` and give up together when
# their context is cancelled, as when clients close their connections. Nobody waits any more. One would
# guess that the next call waits for a second at most. It waits for eight to ten: who gives up
# brings back only what was not reserved after him, and those who gave up before still count.
# `Reservation.Cancel` says that it "reverses the effects as much as possible, considering that other
# reservations may have already been made".
# Ten clients a second, each of which gives up after two seconds: one would guess about twenty calls in
# twenty seconds. Three run. So the more impatient clients there are, the less is done.
set -euo pipefail
command -v go >/dev/null || { echo "install Go (Debian: apt-get install golang-go)" >&2; exit 1; }
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
chmod 755 "$directory"
cd "$directory"
apt-get --quiet=2 download golang-golang-x-time-dev=0.3.0-1 2>errors.log || { cat errors.log >&2; exit 1; }
dpkg-deb --extract golang-golang-x-time-dev_*.deb package

mkdir -p src/finding
cp -r package/usr/share/gocode/src/golang.org src/
cat >src/finding/main.go <<'GO'
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/time/rate"
)

const waiters = 10

// What the next call waits, after ten waiters gave up.
func next() time.Duration {
	limiter := rate.NewLimiter(1, 1)
	limiter.Allow()
	ended := make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	for waiter := 0; waiter < waiters; waiter++ {
		go func() {
			limiter.Wait(ctx)
			ended <- struct{}{}
		}()
	}
	time.Sleep(100 * time.Millisecond)
	cancel()
	for waiter := 0; waiter < waiters; waiter++ {
		<-ended
	}
	return limiter.Reserve().Delay()
}

// How many of the calls run, if a client comes each 100 ms and waits for at most that long.
func run(patience time.Duration, clients int) int {
	limiter := rate.NewLimiter(1, 1)
	ran := make(chan bool)
	for client := 0; client < clients; client++ {
		go func() {
			// A cancelled context, not one with a deadline: with that, `Wait` would refuse at once.
			ctx, cancel := context.WithCancel(context.Background())
			timer := time.AfterFunc(patience, cancel)
			err := limiter.Wait(ctx)
			timer.Stop()
			cancel()
			ran <- err == nil
		}()
		time.Sleep(100 * time.Millisecond)
	}
	count := 0
	for client := 0; client < clients; client++ {
		if <-ran {
			count++
		}
	}
	return count
}

func main() {
	wait := next()
	fmt.Printf("one call a second; ten waiters gave up; the next call waits for %.1f s\n", wait.Seconds())
	patient, impatient := run(time.Hour, 5), run(2*time.Second, 200)
	fmt.Printf("five clients, each waits: %d calls ran\n", patient)
	fmt.Printf("ten clients a second for 20 s, each gives up after 2 s: %d calls ran\n", impatient)
	if wait < 5*time.Second || patient != 5 || impatient > 10 {
		os.Exit(1)
	}
}
GO
dpkg-deb --show golang-golang-x-time-dev_*.deb
GO111MODULE=off GOPATH=$directory GOCACHE=$directory/cache go run finding
