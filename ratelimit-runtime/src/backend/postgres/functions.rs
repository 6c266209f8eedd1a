//! The two functions of the migration: what they are, how they are called, and what they answer.
//!
//! The server plans an unnamed statement at each call, but keeps the plans of statements inside a
//! function for the session. Arguments and results are text of hexadecimal digits, numbers, spaces
//! and commas, which needs no quoting under any session settings.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

/// Identifies [`create`]'s functions among overloads. An existing function is never replaced, so a
/// function whose body changes needs other parameters or another name.
pub(super) const SIGNATURES: [&str; 2] =
    ["ratelimit_lock(text[], bigint[], boolean, integer, boolean)", "ratelimit_write(text[], text[], bigint[])"];

const SKIPPED: &str = "-";

/// What to do about a bucket that another transaction has locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Locks {
    /// Wait for it, until the deadline.
    Wait,
    /// Go on without it.
    Skip,
}

/// A locked bucket.
#[derive(Debug)]
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
    format!(
        "\
CREATE OR REPLACE FUNCTION {schema}.ratelimit_lock(
    keys text[], locks bigint[], waits boolean, milliseconds integer, synchronous boolean
) RETURNS text LANGUAGE plpgsql AS {quote}
DECLARE
    began CONSTANT timestamptz := clock_timestamp();
    ignored text;
    found_row text;
    answer text := '';
BEGIN
    -- For this transaction only.
    ignored := set_config('lock_timeout', milliseconds::text, true);
    ignored := set_config('statement_timeout', milliseconds::text, true);
    ignored := set_config('idle_in_transaction_session_timeout', milliseconds::text, true);
    IF NOT synchronous THEN
        ignored := set_config('synchronous_commit', 'off', true);
    END IF;
    -- A plan is kept: none may be for a table that is small today.
    ignored := set_config('enable_seqscan', 'off', true);
    FOR place IN 1 .. cardinality(keys) LOOP
        IF waits THEN
            IF place > 1 THEN
                -- All locks have the time of one.
                ignored := set_config('lock_timeout', greatest(1, milliseconds
                    - extract(epoch FROM clock_timestamp() - began) * 1000)::integer::text, true);
            END IF;
            ignored := pg_advisory_xact_lock(locks[place]);
        ELSIF NOT pg_try_advisory_xact_lock(locks[place]) THEN
            answer := answer || ',{SKIPPED}';
            CONTINUE;
        END IF;
        SELECT extract(epoch FROM b.expires_at)::bigint || ' ' || encode(b.state, 'hex')
            INTO found_row FROM {table} AS b WHERE b.key = decode(keys[place], 'hex');
        answer := answer || ',' || coalesce(found_row, '');
    END LOOP;
    RETURN (extract(epoch FROM clock_timestamp()) * 1000000)::bigint || answer;
END
{quote};
CREATE OR REPLACE FUNCTION {schema}.ratelimit_write(
    keys text[], states text[], expiries bigint[]
) RETURNS void LANGUAGE plpgsql AS {quote}
BEGIN
    FOR place IN 1 .. cardinality(keys) LOOP
        UPDATE {table} AS b
            SET state = decode(states[place], 'hex'), expires_at = to_timestamp(expiries[place])
            WHERE b.key = decode(keys[place], 'hex');
        IF NOT FOUND THEN
            INSERT INTO {table} (key, state, expires_at) VALUES
                (decode(keys[place], 'hex'), decode(states[place], 'hex'), to_timestamp(expiries[place]));
        END IF;
    END LOOP;
END
{quote};
"
    )
}

/// Calls `ratelimit_lock` on keys with the numbers of their locks.
pub(super) fn lock<'a>(
    schema: &str,
    keys: impl Iterator<Item = (&'a str, i64)> + Clone,
    locks: Locks,
    milliseconds: u128,
    synchronous: bool,
) -> String {
    let mut sql = format!("SELECT {schema}.ratelimit_lock('");
    list(&mut sql, keys.clone().map(|(key, _)| Item::Bytes(key.as_bytes())));
    sql.push_str("','");
    list(&mut sql, keys.map(|(_, lock)| Item::Number(lock)));
    let milliseconds = milliseconds.min(i32::MAX as u128);
    // Writing to a String does not fail.
    let _ = write!(sql, "',{},{milliseconds},{synchronous})", locks == Locks::Wait);
    sql
}

/// Calls `ratelimit_write` on keys, states and when they expire, in seconds since the Unix epoch.
pub(super) fn write<'a>(schema: &str, rows: impl Iterator<Item = (&'a str, &'a [u8], u64)> + Clone) -> String {
    let mut sql = format!("SELECT {schema}.ratelimit_write('");
    list(&mut sql, rows.clone().map(|(key, ..)| Item::Bytes(key.as_bytes())));
    sql.push_str("','");
    list(&mut sql, rows.clone().map(|(_, state, _)| Item::Bytes(state)));
    sql.push_str("','");
    list(&mut sql, rows.map(|(.., expiry)| Item::Number(expiry.try_into().unwrap_or(i64::MAX))));
    sql.push_str("')");
    sql
}

/// Parses the answer of `ratelimit_lock`: the server's time, and the rows. `None` if it is
/// malformed.
pub(super) fn read(answer: &str) -> Option<(SystemTime, Vec<Option<Stored>>)> {
    let mut fields = answer.split(',');
    let micros = fields.next()?.parse().ok()?;
    let stored = |field| match field {
        SKIPPED => Some(None),
        "" => Some(Some(Stored { state: None, expires_at: None })),
        row => {
            let (seconds, state) = row.split_once(' ')?;
            let expires_at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds.parse().ok()?));
            Some(Some(Stored { state: Some(bytes(state)?), expires_at: Some(expires_at?) }))
        }
    };
    let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_micros(micros))?;
    Some((time, fields.map(stored).collect::<Option<_>>()?))
}

enum Item<'a> {
    Bytes(&'a [u8]),
    Number(i64),
}

/// An array, as PostgreSQL reads it.
fn list<'a>(sql: &mut String, items: impl Iterator<Item = Item<'a>>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (place, item) in items.enumerate() {
        sql.push(if place == 0 { '{' } else { ',' });
        match item {
            Item::Bytes(bytes) => {
                let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
                sql.extend(digits.map(|digit| char::from(DIGITS[usize::from(digit)])));
            }
            Item::Number(number) => drop(write!(sql, "{number}")),
        }
    }
    sql.push('}');
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
        assert_eq!(sql, "SELECT \"s\".ratelimit_lock('{61275c,c3a9}','{-1,2}',false,99,false)");
        let sql = write("\"s\"", [("k", &[0, 255][..], 7)].into_iter());
        assert_eq!(sql, "SELECT \"s\".ratelimit_write('{6b}','{00ff}','{7}')");
    }

    #[test]
    fn an_answer_is_a_time_and_rows() {
        let (time, rows) = read("1000001,,-,60 00ff").unwrap();
        assert_eq!(time, SystemTime::UNIX_EPOCH + SECOND + Duration::from_micros(1));
        assert!(rows[0].as_ref().unwrap().state.is_none() && rows[1].is_none());
        let stored = rows[2].as_ref().unwrap();
        assert_eq!(stored.state.as_deref(), Some(&[0, 255][..]));
        assert_eq!(stored.expires_at, Some(SystemTime::UNIX_EPOCH + 60 * SECOND));
    }

    #[test]
    fn other_answers_are_none() {
        for answer in ["", "x", "-1", "1,x", "1,60 0", "1,60 0g", "1,60 +1", "1,-1 00", "1,99999999999999999999 00"] {
            assert!(read(answer).is_none(), "{answer}");
        }
    }

    #[test]
    fn no_name_ends_the_body_of_a_function() {
        let table = "\"$body0$\".ratelimit_buckets";
        assert!(create("\"$body0$\"", table).contains("AS $body1$\n"));
    }
}
