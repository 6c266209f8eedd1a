//! Limits as text and as tables, for configuration.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use ratelimit_runtime::{Algorithm, Calendar, Limit, ParseLimitError, Weekday};
use serde_json::{Value, from_value, json};

const SMOOTH: Limit = Limit::per_second(5).with_algorithm(Algorithm::TokenBucket).with_burst(10);

#[test]
fn limits_by_the_period() {
    for (limit, seconds) in [
        (Limit::per_second(7), 1),
        (Limit::per_minute(7), 60),
        (Limit::per_hour(7), 3_600),
        (Limit::per_day(7), 86_400),
    ] {
        assert_eq!(limit, Limit::new(7, Duration::from_secs(seconds)));
    }
}

#[test]
fn limits_are_read_from_configuration() {
    let limits: BTreeMap<String, Vec<Limit>> = serde_json::from_str(
        r#"{
            "search": ["100/1m", "10 per second"],
            "login": [{"count": 5, "per": "15m"}, {"count": 20, "per": 86400, "algorithm": "fixed_window"}],
            "feed": ["5/s token_bucket burst 10", {"count": 5, "per": 1.0, "algorithm": "token_bucket", "burst": 10}]
        }"#,
    )
    .unwrap();
    assert_eq!(limits["search"], [Limit::per_minute(100), Limit::per_second(10)]);
    let daily = Limit::per_day(20).with_algorithm(Algorithm::FixedWindow);
    assert_eq!(limits["login"], [Limit::new(5, Duration::from_secs(900)), daily]);
    assert_eq!(limits["feed"], [SMOOTH, SMOOTH]);
}

#[test]
fn calendars_are_read_from_configuration_and_written() {
    for (limit, table) in [
        (
            Limit::per_calendar(1_000, Calendar::DAY),
            json!({"count": 1_000, "algorithm": "fixed_window", "calendar": "day", "zone": "UTC"}),
        ),
        (
            Limit::per_calendar(5, Calendar::WEEK.week_starts(Weekday::Sunday).in_zone("Asia/Tokyo")),
            json!({
                "count": 5, "algorithm": "fixed_window", "calendar": "week", "zone": "Asia/Tokyo", "week_starts": "sunday",
            }),
        ),
        (
            Limit::per_calendar(5, Calendar::MONTH.starts_on(31)),
            json!({"count": 5, "algorithm": "fixed_window", "calendar": "month", "zone": "UTC", "starts_on": 31}),
        ),
    ] {
        assert_eq!(serde_json::to_value(limit).unwrap(), table);
        assert_eq!(from_value::<Limit>(table).unwrap(), limit);
        assert_eq!(from_value::<Limit>(json!(limit.to_string())).unwrap(), limit);
    }
    let short = json!({"count": 1_000, "calendar": "day"});
    assert_eq!(from_value::<Limit>(short).unwrap(), Limit::per_calendar(1_000, Calendar::DAY));
}

#[test]
fn an_invalid_table_says_why() {
    let refused = |value: Value| from_value::<Limit>(value).unwrap_err().to_string();
    for (value, message) in [
        (json!({"count": 5}), "missing field `per`"),
        (json!({"per": "1m"}), "missing field `count`"),
        (json!({"count": 0, "per": "1m"}), "at least 1"),
        (json!({"count": -1, "per": "1m"}), "-1"),
        (json!({"count": 5, "per": "1 month"}), "no fixed length"),
        (json!({"count": 5, "per": -1}), "a number of seconds"),
        (json!({"count": 5, "per": 1e300}), "a number of seconds"),
        (json!({"count": 5, "per": 0}), "from 1 microsecond"),
        (json!({"count": 5, "per": "1m", "burst": 5}), "only a token bucket"),
        (json!({"count": 5, "per": "1m", "algorithm": "token-bucket"}), "did you mean `token_bucket`?"),
        (json!({"count": 5, "per": "1m", "cost": 1}), "unknown field `cost`"),
        (json!({"count": 5, "calendar": "day", "per": "1d"}), "a `per` or a `calendar`"),
        (json!({"count": 5, "calendar": "day", "algorithm": "token_bucket"}), "is a `fixed_window`"),
        (json!({"count": 5, "calendar": "day", "burst": 5}), "without `burst`"),
        (json!({"count": 5, "calendar": "dya"}), "did you mean `day`?"),
        (json!({"count": 5, "calendar": "day", "zone": "Europe/Berln"}), "did you mean `Europe/Berlin`?"),
        (json!({"count": 5, "calendar": "month", "starts_on": 32}), "from 1 to 31"),
        (json!({"count": 5, "calendar": "month", "starts_on": 300}), "300"),
        (json!({"count": 5, "calendar": "day", "week_starts": "sunday"}), "for a calendar week"),
        (json!({"count": 0, "calendar": "day"}), "at least 1"),
        (json!({"count": 5, "per": "1d", "zone": "UTC"}), "`zone` is for a calendar: add `calendar`"),
        (json!("100/1y"), "no fixed length"),
        (json!(100), "a limit, as in `100/1m`"),
    ] {
        let refusal = refused(value.clone());
        assert!(refusal.contains(message), "{value}: {refusal}");
    }
}

#[test]
fn an_invalid_text_says_why() {
    let error: ParseLimitError = "100 a minute".parse::<Limit>().unwrap_err();
    assert_eq!(error.to_string(), "`100 a minute` is not a limit: write for example `100/1m`");
}

proptest! {
    #[test]
    fn limits_survive_a_round_trip(
        count in 1..=u32::MAX,
        micros in 1..=366 * 86_400_000_000_u64,
        algorithm in 0..3,
        burst in 1..=u32::MAX,
    ) {
        let limit = Limit::new(count, Duration::from_micros(micros));
        let limit = match algorithm {
            0 => limit,
            1 => limit.with_algorithm(Algorithm::FixedWindow),
            _ => limit.with_algorithm(Algorithm::TokenBucket).with_burst(burst),
        };
        prop_assert_eq!(limit.to_string().parse(), Ok(limit));
        let read = from_value::<Limit>(serde_json::to_value(limit).unwrap()).unwrap();
        prop_assert_eq!((read.count(), read.burst(), read.algorithm()), (count, limit.burst(), limit.algorithm()));
        // Seconds as a number have 53 bits.
        prop_assert!(read.per().abs_diff(limit.per()) <= Duration::from_micros(1));
    }

    #[test]
    fn no_text_panics(text in "[0-9_/ .µa-z(),]{0,40}", any in ".{0,20}") {
        let _ = text.parse::<Limit>();
        let _ = any.parse::<Limit>();
    }
}
