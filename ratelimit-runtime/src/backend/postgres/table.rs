//! The table of buckets, and the statements on it.
//!
//! Its rows are updated in place (HOT): no index covers `state`, and `expires_at` stays as it is for
//! most updates (see [`expiry`]). Keys are bytes, so no collation and no encoding of the database
//! matters.

use std::time::{Duration, SystemTime};

/// The shortest and the longest time that a row is kept beyond what its bucket needs.
const SPARE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3_600));
/// No bucket counts for longer. Keeps dates within what PostgreSQL can store.
const LONGEST: Duration = Duration::from_secs(100 * 366 * 86_400);
/// Rows that are removed in one transaction.
pub(super) const PRUNED: u32 = 500;

/// The schema and the table in it, quoted.
#[derive(Clone, Debug)]
pub(super) struct Table {
    schema: String,
    name: String,
}

/// The statements on a table.
#[derive(Debug)]
pub(super) struct Statements {
    pub(super) read_one: String,
    pub(super) read_many: String,
    pub(super) write_one: String,
    pub(super) write_many: String,
    pub(super) prune: String,
}

/// The time, for a bucket without a row.
pub(super) const TIME: &str = "SELECT pg_catalog.clock_timestamp(), NULL::bytea, NULL::timestamptz";
/// Locks several buckets, those that nobody else holds.
pub(super) const TRY_LOCKS: &str =
    "SELECT pg_catalog.pg_try_advisory_xact_lock(number) FROM pg_catalog.unnest($1) AS number";

impl Table {
    pub(super) fn new(schema: &str) -> Table {
        let schema = quoted(schema);
        Table { name: format!("{schema}.ratelimit_buckets"), schema }
    }

    /// The table's name, as errors and SQL write it.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Creates what does not exist yet.
    pub(super) fn migration(&self) -> String {
        let Table { schema, name } = self;
        // Whoever may not create schemas may not create one that exists.
        let create_schema =
            if schema == "\"public\"" { String::new() } else { format!("CREATE SCHEMA IF NOT EXISTS {schema};\n") };
        // Half of a page is for new versions of its rows. Large windows stay in their row.
        format!(
            "{create_schema}\
CREATE TABLE IF NOT EXISTS {name} (
    key bytea PRIMARY KEY,
    state bytea NOT NULL,
    expires_at timestamptz NOT NULL
) WITH (
    fillfactor = 50, toast_tuple_target = 8160,
    autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0
);
CREATE INDEX IF NOT EXISTS ratelimit_buckets_expires_at ON {name} (expires_at);
"
        )
    }

    pub(super) fn statements(&self) -> Statements {
        let Table { name, .. } = self;
        let upsert = "ON CONFLICT (key) DO UPDATE SET state = excluded.state, expires_at = excluded.expires_at";
        Statements {
            read_one: format!("SELECT pg_catalog.clock_timestamp(), state, expires_at FROM {name} WHERE key = $1"),
            read_many: format!(
                "SELECT pg_catalog.clock_timestamp(), b.state, b.expires_at \
                 FROM pg_catalog.unnest($1) WITH ORDINALITY AS asked (key, place) \
                 LEFT JOIN {name} AS b ON b.key = asked.key ORDER BY asked.place"
            ),
            write_one: format!("INSERT INTO {name} (key, state, expires_at) VALUES ($1, $2, $3) {upsert}"),
            write_many: format!(
                "INSERT INTO {name} (key, state, expires_at) \
                 SELECT * FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3)) {upsert}"
            ),
            prune: format!(
                "DELETE FROM {name} WHERE expires_at < pg_catalog.now() AND key = ANY (ARRAY( \
                 SELECT key FROM {name} WHERE expires_at < pg_catalog.now() \
                 ORDER BY expires_at LIMIT {PRUNED} FOR UPDATE SKIP LOCKED))"
            ),
        }
    }
}

/// An identifier of any characters.
fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

/// When a row may be removed whose bucket is idle after `idle_after`. The time that it has now
/// stands while it is late enough: a new one has to be written to the index.
pub(super) fn expiry(now: SystemTime, idle_after: Duration, stored: Option<SystemTime>) -> SystemTime {
    let idle_after = idle_after.min(LONGEST);
    let spare = (idle_after / 2).clamp(SPARE.0, SPARE.1);
    let (earliest, latest) = (now + idle_after, now + idle_after + 2 * spare);
    stored.filter(|stored| (earliest..=latest).contains(stored)).unwrap_or(earliest + spare)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_schema_of_any_name_is_one_identifier() {
        assert_eq!(Table::new("a \"B\"; DROP").name(), "\"a \"\"B\"\"; DROP\".ratelimit_buckets");
    }

    #[test]
    fn the_expiry_of_a_busy_bucket_changes_once_a_minute() {
        let start = SystemTime::UNIX_EPOCH + 1_000_000 * SECOND;
        let (mut stored, mut changes) = (None, 0);
        for second in 0..600 {
            let now = start + second * SECOND;
            let next = expiry(now, SECOND, stored);
            assert!(next >= now + SECOND && next <= now + 121 * SECOND);
            changes += u32::from(stored != Some(next));
            stored = Some(next);
        }
        assert!(changes <= 11, "{changes}");
    }

    #[test]
    fn a_bucket_whose_period_became_shorter_expires_earlier() {
        let now = SystemTime::UNIX_EPOCH + 1_000_000 * SECOND;
        let long = expiry(now, 86_400 * SECOND, None);
        assert!(expiry(now, SECOND, Some(long)) < now + 121 * SECOND);
    }
}
