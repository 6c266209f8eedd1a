//! The functions of the migration: what they are, how they are called, and what they answer.
//!
//! The server plans an unnamed statement at each call, but keeps the plans of statements inside a
//! function for the session. One bucket has functions of its own: a statement over arrays costs half
//! as much for each of many buckets, and twice as much for one. Arguments and results are text of
//! hexadecimal digits, numbers, spaces and commas, which means the same under any session settings.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

/// What [`create`] creates. An existing function is never replaced, so a function whose body changes
/// needs another name: calls with untyped literals cannot tell overloads apart.
pub(super) const SIGNATURES: [&str; 4] = [
    "ratelimit_lock_one(bytea, bigint, text, boolean)",
    "ratelimit_lock_all(bytea[], bigint[], text, boolean, boolean)",
    "ratelimit_write_one(bytea, bytea, bigint)",
    "ratelimit_write_all(bytea[], bytea[], bigint[])",
];

/// Seconds from the Unix epoch to that of PostgreSQL's binary timestamps.
const EPOCH: i64 = 946_684_800;
/// Digits of a binary timestamp.
const TIME: usize = 16;

/// What to do about a bucket that another transaction has locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Locks {
    /// Wait for it, until the deadline.
    Wait,
    /// Go on without it.
    Skip,
}

/// A locked bucket.
#[derive(Clone, Debug, Default)]
pub(super) struct Stored {
    /// None without a row.
    pub(super) state: Option<Vec<u8>>,
    pub(super) expires_at: Option<SystemTime>,
}

/// The SQL that creates the functions.
pub(super) fn create(schema: &str, table: &str) -> String {
    // A dollar quote that does not occur in the name. The longest name has room for fewer than 64.
    let quote = (0..64).map(|number| format!("$body{number}$")).find(|quote| !table.contains(quote));
    let quote = quote.unwrap_or_default();
    // One expression, because PL/pgSQL prepares each anew in every transaction. A lock's time-out
    // bounds all waits; only a commit that waits for standbys needs the statement's.
    let settings = "
    -- For this transaction only. A plan is kept: none may be for a table that is small today.
    ignored text := set_config('lock_timeout', milliseconds, true)
        || set_config('idle_in_transaction_session_timeout', milliseconds, true)
        || set_config('enable_seqscan', 'off', true)
        || CASE WHEN synchronous THEN set_config('statement_timeout', milliseconds, true)
            ELSE set_config('synchronous_commit', 'off', true) END";
    format!(
        "\
CREATE OR REPLACE FUNCTION {schema}.ratelimit_lock_one(
    bucket bytea, lock bigint, milliseconds text, synchronous boolean
) RETURNS text LANGUAGE plpgsql AS {quote}
DECLARE{settings};
    found_row bytea;
BEGIN
    IF NOT pg_try_advisory_xact_lock(lock) THEN
        ignored := pg_advisory_xact_lock(lock);
    END IF;
    SELECT timestamptz_send(b.expires_at) || b.state INTO found_row FROM {table} AS b WHERE b.key = bucket;
    RETURN encode(timestamptz_send(clock_timestamp()) || coalesce(found_row, ''), 'hex');
END
{quote};
CREATE OR REPLACE FUNCTION {schema}.ratelimit_lock_all(
    buckets bytea[], locks bigint[], milliseconds text, synchronous boolean, waits boolean
) RETURNS text LANGUAGE plpgsql AS {quote}
DECLARE{settings}
        -- The same plan for any number of buckets.
        || set_config('plan_cache_mode', 'force_generic_plan', true);
    skipped text := '';
    found_rows text;
BEGIN
    FOR place IN 1 .. cardinality(locks) LOOP
        CONTINUE WHEN pg_try_advisory_xact_lock(locks[place]);
        IF waits THEN
            -- All locks have the time of one.
            ignored := set_config('lock_timeout', greatest(1, milliseconds::integer
                - extract(epoch FROM clock_timestamp() - now()) * 1000)::integer::text, true);
            ignored := pg_advisory_xact_lock(locks[place]);
        ELSE
            skipped := skipped || ',' || place;
        END IF;
    END LOOP;
    SELECT string_agg(',' || array_position(buckets, b.key) || ' '
        || encode(timestamptz_send(b.expires_at) || b.state, 'hex'), '')
        INTO found_rows FROM {table} AS b WHERE b.key = ANY (buckets);
    RETURN encode(timestamptz_send(clock_timestamp()), 'hex') || coalesce(found_rows, '') || skipped;
END
{quote};
CREATE OR REPLACE PROCEDURE {schema}.ratelimit_write_one(
    bucket bytea, new_state bytea, expiry bigint
) LANGUAGE plpgsql AS {quote}
BEGIN
    UPDATE {table} AS b SET state = new_state, expires_at = to_timestamp(expiry) WHERE b.key = bucket;
    IF NOT FOUND THEN
        INSERT INTO {table} (key, state, expires_at) VALUES (bucket, new_state, to_timestamp(expiry));
    END IF;
END
{quote};
CREATE OR REPLACE PROCEDURE {schema}.ratelimit_write_all(
    buckets bytea[], states bytea[], expiries bigint[]
) LANGUAGE plpgsql AS {quote}
BEGIN
    INSERT INTO {table} (key, state, expires_at)
        SELECT w.key, w.state, to_timestamp(w.expiry) FROM unnest(buckets, states, expiries) AS w(key, state, expiry)
        ON CONFLICT (key) DO UPDATE SET state = EXCLUDED.state, expires_at = EXCLUDED.expires_at;
END
{quote};
"
    )
}

/// Calls `ratelimit_lock_..` on keys with the numbers of their locks.
pub(super) fn lock<'a>(
    schema: &str,
    keys: impl ExactSizeIterator<Item = (&'a str, i64)> + Clone,
    locks: Locks,
    milliseconds: u128,
    synchronous: bool,
) -> String {
    let is_one = keys.len() == 1;
    let mut sql = format!("SELECT {schema}.ratelimit_lock{}(", if is_one { "_one" } else { "_all" });
    list(&mut sql, keys.clone().map(|(key, _)| Item::Bytes(key.as_bytes())));
    list(&mut sql, keys.map(|(_, lock)| Item::Number(lock)));
    let milliseconds = milliseconds.min(i32::MAX as u128);
    // Writing to a String does not fail.
    let _ = write!(sql, "'{milliseconds}',{synchronous}");
    // With one bucket, no other one waits.
    sql.push_str(match locks {
        _ if is_one => ")",
        Locks::Wait => ",true)",
        Locks::Skip => ",false)",
    });
    sql
}

/// Calls `ratelimit_write_..` on keys, states and when they expire, in seconds since the Unix epoch.
pub(super) fn write<'a>(schema: &str, rows: impl ExactSizeIterator<Item = (&'a str, &'a [u8], u64)> + Clone) -> String {
    let mut sql = format!("CALL {schema}.ratelimit_write{}(", if rows.len() == 1 { "_one" } else { "_all" });
    list(&mut sql, rows.clone().map(|(key, ..)| Item::Bytes(key.as_bytes())));
    list(&mut sql, rows.clone().map(|(_, state, _)| Item::Bytes(state)));
    list(&mut sql, rows.map(|(.., expiry)| Item::Number(expiry.try_into().unwrap_or(i64::MAX))));
    sql.pop();
    sql.push(')');
    sql
}

/// Parses the answer of `ratelimit_lock_..` on a number of keys: the server's time, and the rows, `None`
/// for a skipped one. `None` if it is malformed.
pub(super) fn read(answer: &str, keys: usize) -> Option<(SystemTime, Vec<Option<Stored>>)> {
    let mut fields = answer.split(',');
    let (now, row) = fields.next()?.split_at_checked(TIME)?;
    let (now, mut rows) = (time(now)?, vec![Some(Stored::default()); keys]);
    if !row.is_empty() {
        *rows.first_mut()? = Some(stored(row)?);
    }
    for field in fields {
        let (place, row) = field.split_once(' ').map_or((field, None), |(place, row)| (place, Some(row)));
        let place = place.parse::<usize>().ok()?.checked_sub(1)?;
        *rows.get_mut(place)? = match row {
            Some(row) => Some(stored(row)?),
            None => None,
        };
    }
    Some((now, rows))
}

fn stored(row: &str) -> Option<Stored> {
    let (expires_at, state) = row.split_at_checked(TIME)?;
    Some(Stored { state: Some(bytes(state)?), expires_at: Some(time(expires_at)?) })
}

/// A binary timestamp in hexadecimal digits.
fn time(digits: &str) -> Option<SystemTime> {
    let micros = i64::from_be_bytes(bytes(digits)?.try_into().ok()?).checked_add(EPOCH * 1_000_000)?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_micros(micros.try_into().ok()?))
}

enum Item<'a> {
    Bytes(&'a [u8]),
    Number(i64),
}

/// An argument and a comma: the only item, or an array as PostgreSQL reads it.
fn list<'a>(sql: &mut String, items: impl ExactSizeIterator<Item = Item<'a>>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let (start, end, escape) = if items.len() == 1 { ("E'", "',", r"\\x") } else { ("E'{", "}',", r"\\\\x") };
    for (place, item) in items.enumerate() {
        sql.push_str(if place == 0 { start } else { "," });
        match item {
            Item::Bytes(bytes) => {
                sql.push_str(escape);
                let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
                sql.extend(digits.map(|digit| char::from(DIGITS[usize::from(digit)])));
            }
            Item::Number(number) => drop(write!(sql, "{number}")),
        }
    }
    sql.push_str(end);
}

/// The bytes of hexadecimal digits.
fn bytes(digits: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pair = |pair: &[u8]| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    };
    digits.as_bytes().chunks(2).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_is_sent_is_digits_whatever_the_keys_are() {
        let sql = lock("\"s\"", [("a'\\", -1), ("é", 2)].into_iter(), Locks::Skip, 99, false);
        assert_eq!(sql, r#"SELECT "s".ratelimit_lock_all(E'{\\\\x61275c,\\\\xc3a9}',E'{-1,2}','99',false,false)"#);
        let sql = lock("\"s\"", [("é", 2)].into_iter(), Locks::Wait, 99, true);
        assert_eq!(sql, r#"SELECT "s".ratelimit_lock_one(E'\\xc3a9',E'2','99',true)"#);
        let row = ("k", &[0, 255][..], 7);
        let sql = write("\"s\"", [row].into_iter());
        assert_eq!(sql, r#"CALL "s".ratelimit_write_one(E'\\x6b',E'\\x00ff',E'7')"#);
        let sql = write("\"s\"", [row, ("", &[], 8)].into_iter());
        assert_eq!(sql, r#"CALL "s".ratelimit_write_all(E'{\\\\x6b,\\\\x}',E'{\\\\x00ff,\\\\x}',E'{7,8}')"#);
    }

    #[test]
    fn an_answer_is_a_time_and_rows() {
        let at = |micros: i64| format!("{:016x}", micros - EPOCH * 1_000_000);
        let (time, rows) = read(&format!("{},3 {}00ff,2", at(1_000_001), at(60_000_000)), 3).unwrap();
        assert_eq!(time, SystemTime::UNIX_EPOCH + SECOND + Duration::from_micros(1));
        assert!(rows[0].as_ref().unwrap().state.is_none() && rows[1].is_none());
        let (_, one) = read(&format!("{}{}00ff", at(1_000_001), at(60_000_000)), 1).unwrap();
        for stored in [&rows[2], &one[0]] {
            let stored = stored.as_ref().unwrap();
            assert_eq!(stored.state.as_deref(), Some(&[0, 255][..]));
            assert_eq!(stored.expires_at, Some(SystemTime::UNIX_EPOCH + 60 * SECOND));
        }
    }

    #[test]
    fn other_answers_are_none() {
        let (now, infinity) = ("0002e0f1c2d3a4b5", "7fffffffffffffff");
        assert!(read(now, 1).is_some());
        for answer in ["", "x", "1", infinity, "8000000000000000", "00é00000000000000", &format!("{now}00")] {
            assert!(read(answer, 1).is_none(), "{answer}");
        }
        for field in [
            "x",
            "0",
            "2",
            "-1",
            "1 00",
            "1 é",
            &format!("1 {infinity}00"),
            &format!("1 {now}0"),
            &format!("1 {now}0g"),
        ] {
            assert!(read(&format!("{now},{field}"), 1).is_none(), "{field}");
        }
    }

    #[test]
    fn no_name_ends_the_body_of_a_function() {
        let table = "\"$body0$\".ratelimit_buckets";
        assert!(create("\"$body0$\"", table).contains("AS $body1$\n"));
    }
}
