//! The table of buckets, and the statements on it.
//!
//! Its rows are updated in place (HOT): no index covers `state`, and `expires_at` stays as it is for
//! most updates (see [`expiry`]). Keys are bytes, so no collation and no encoding of the database
//! matters.

use std::time::{Duration, SystemTime};

use super::functions;

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

impl Table {
    pub(super) fn new(schema: &str) -> Table {
        let schema = quoted(schema);
        Table { name: format!("{schema}.ratelimit_buckets"), schema }
    }

    /// The schema's name, quoted.
    pub(super) fn schema(&self) -> &str {
        &self.schema
    }

    /// The table's name, as errors and SQL write it.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Creates what does not exist yet.
    pub(super) fn migration(&self) -> String {
        let Table { schema, name } = self;
        // Without the right to create schemas, even `IF NOT EXISTS` fails.
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
{}",
            functions::create(schema, name)
        )
    }

    /// Fails unless the user may use what [`migration`](Table::migration) creates.
    pub(super) fn uses(&self) -> String {
        let functions = functions::SIGNATURES.map(|signature| {
            let function = format!("{}.{signature}", self.schema).replace('\\', r"\\").replace('\'', r"\'");
            format!(";SELECT E'{function}'::pg_catalog.regprocedure")
        });
        format!("SELECT FROM {} LIMIT 0{}", self.name, functions.concat())
    }

    /// Removes rows of idle buckets.
    pub(super) fn prune(&self) -> String {
        let Table { name, .. } = self;
        format!(
            "DELETE FROM {name} WHERE expires_at < pg_catalog.now() AND key = ANY (ARRAY( \
             SELECT key FROM {name} WHERE expires_at < pg_catalog.now() \
             ORDER BY expires_at LIMIT {PRUNED} FOR UPDATE SKIP LOCKED))"
        )
    }
}

/// An identifier of any characters.
fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

/// When to remove the row of a bucket that is idle after `idle_after`, in seconds since the Unix
/// epoch. Keeps the stored time while that is late enough, because a new one must be written to the
/// index.
pub(super) fn expiry(now: SystemTime, idle_after: Duration, stored: Option<SystemTime>) -> u64 {
    let idle_after = idle_after.min(LONGEST);
    let spare = (idle_after / 2).clamp(SPARE.0, SPARE.1);
    let (earliest, latest) = (now + idle_after, now + idle_after + 2 * spare);
    let expiry = stored.filter(|stored| (earliest..=latest).contains(stored)).unwrap_or(earliest + spare);
    expiry.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
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
            let next = SystemTime::UNIX_EPOCH + Duration::from_secs(expiry(now, SECOND, stored));
            assert!(next >= now + SECOND && next <= now + 121 * SECOND);
            changes += u32::from(stored != Some(next));
            stored = Some(next);
        }
        assert!(changes <= 11, "{changes}");
    }

    #[test]
    fn a_bucket_whose_period_became_shorter_expires_earlier() {
        let now = SystemTime::UNIX_EPOCH + 1_000_000 * SECOND;
        let long = now + 86_400 * SECOND;
        assert!(expiry(now, SECOND, Some(long)) <= 1_000_121);
    }
}
