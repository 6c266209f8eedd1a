#!/usr/bin/env bash
# Symfony's RateLimiter 5.4.53 (Debian 12: php-symfony-rate-limiter), with PHP 8.2, 1 December 2026.
#
# A `CompoundLimiter` of two limits: 10 a minute and 12 an hour. Calls cost 4. One would guess that
# the third is denied: after two, 2 are left in this minute. It is accepted, so 12 leave within the
# minute: of the limits' answers, the one with the fewest tokens left counts, whether it is a yes or
# a no. The minute's is "no, 2 left", the hour's "yes, 0 left".
# All limits are charged, also for a call that one of them denies. With 3 a second and 100 an hour, a
# client calls 200 times at once, and three calls get through. One would guess three more two seconds
# later. The denied calls have used up the hundred, so the hour says no. Yet one of three is accepted,
# the one that leaves 0 in its second: of a "no, 0 left" and a "yes, 0 left", the limit that was named
# first decides. With the hour named first, four get through at once, and then none for an hour.
set -euo pipefail
command -v php >/dev/null || { echo "install PHP (Debian: apt-get install php-cli)" >&2; exit 1; }
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
chmod 755 "$directory"
cd "$directory"
symfony=5.4.53+dfsg-0+deb12u1
apt-get --quiet=2 download php-symfony-{rate-limiter,lock,options-resolver}=$symfony \
    php-symfony-deprecation-contracts php-symfony-polyfill-{php73,php80} php-psr-log 2>errors.log || { cat errors.log >&2; exit 1; }
for package in *.deb; do dpkg-deb --extract "$package" packages; done

cat >run.php <<'PHP'
<?php
require 'Symfony/Component/RateLimiter/autoload.php';

use Symfony\Component\RateLimiter\CompoundLimiter;
use Symfony\Component\RateLimiter\RateLimiterFactory;
use Symfony\Component\RateLimiter\Storage\InMemoryStorage;

function limit(int $limit, string $interval)
{
    $config = ['id' => $interval, 'policy' => 'fixed_window', 'limit' => $limit, 'interval' => $interval];
    return (new RateLimiterFactory($config, new InMemoryStorage()))->create();
}

function accepted(CompoundLimiter $limiter, int $calls, int $cost): int
{
    $accepted = 0;
    for ($call = 0; $call < $calls; $call++) {
        $accepted += $limiter->consume($cost)->isAccepted() ? 1 : 0;
    }
    return $accepted;
}

$minute = accepted(new CompoundLimiter([limit(10, '1 minute'), limit(1000, '1 hour')]), 5, 4);
$both = accepted(new CompoundLimiter([limit(10, '1 minute'), limit(12, '1 hour')]), 5, 4);
echo "10 a minute, then 1000 an hour, calls of 4: $minute accepted\n";
echo "10 a minute, then 12 an hour, calls of 4:   $both accepted\n";

$seen = [$minute, $both];
foreach ([[[3, '1 second'], [100, '1 hour']], [[100, '1 hour'], [3, '1 second']]] as $limits) {
    $limiter = new CompoundLimiter([limit(...$limits[0]), limit(...$limits[1])]);
    $burst = accepted($limiter, 200, 1);
    sleep(2);
    $later = accepted($limiter, 3, 1);
    [$first, $then] = [implode(' in ', $limits[0]), implode(' in ', $limits[1])];
    echo "$first, then $then: $burst of 200 calls accepted, two seconds later $later of 3\n";
    array_push($seen, $burst, $later);
}
exit($seen === [2, 3, 3, 1, 4, 0] ? 0 : 1);
PHP
dpkg-deb --show php-symfony-rate-limiter_*.deb
php -d include_path=packages/usr/share/php run.php
