//! One transaction on some buckets, in two round trips. The first locks the buckets, reads them, and
//! then reads the server's clock. The second writes what has changed, and commits.
//!
//! Locks are advisory locks of the transaction, on a hash of the schema and the key. They also lock
//! a bucket that has no row yet, write nothing, and end with the transaction, behind a pooler too.
//! Each row is read by a statement that begins when its lock is held, and the clock is read when
//! all locks are held.
//!
//! Each round trip is one message of the simple protocol. It calls a function of the migration, whose
//! plans the server keeps for the session. Settings are per transaction and no statement has a
//! name, so a pooler sees no session state.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::future::Future as _;
use std::pin::pin;
use std::task::{Context, Waker};
use std::time::{Duration, Instant, SystemTime};

use sha2::{Digest, Sha256};
use tokio_postgres::SimpleQueryMessage;

use super::connections::Lent;
use super::failure::Failure;
use super::functions::{self, Locks, Stored};
use super::server::Server;
use super::table;
use crate::backend::{Request, Timestamp};
use crate::error::BackendError;
use crate::rt::timer;

/// The longest key, in bytes.
const LONGEST_KEY: usize = 512;
/// The most attempts to find a working connection. Nothing is charged before a transaction holds
/// its locks.
const TRIES: usize = 4;

/// A bucket's row, by its key.
#[derive(Clone, Debug)]
pub(super) struct Key<'a> {
    pub(super) name: Cow<'a, str>,
    /// The number of its lock.
    lock: i64,
}

impl<'a> Key<'a> {
    pub(super) fn of(request: &'a Request, server: &Server) -> Key<'a> {
        Key::new(request.bucket_within(LONGEST_KEY), server)
    }

    /// The lock held while the table is created. No bucket has this name.
    pub(super) fn of_migration(server: &Server) -> Key<'static> {
        Key::new(Cow::Borrowed(""), server)
    }

    fn new(name: Cow<'a, str>, server: &Server) -> Key<'a> {
        let hash = Sha256::new().chain_update(server.table.name()).chain_update([0]).chain_update(&*name).finalize();
        let mut number = [0; 8];
        number.copy_from_slice(&hash[..8]);
        Key { name, lock: i64::from_be_bytes(number) }
    }
}

/// The order in which buckets are locked.
pub(super) fn order(key: &Key<'_>) -> i64 {
    key.lock
}

/// A row to write.
pub(super) struct Write<'a> {
    pub(super) key: &'a Key<'a>,
    pub(super) stored: &'a Stored,
    pub(super) state: Vec<u8>,
    /// From the transaction's time on.
    pub(super) idle_after: Duration,
}

/// An open transaction. Dropping it rolls it back and returns its connection.
pub(super) struct Transaction {
    server: Server,
    /// None once it has ended.
    lent: Option<Lent>,
    /// Whether the server owes an answer.
    is_waiting: bool,
    time: SystemTime,
}

impl Transaction {
    /// Locks and reads the rows of `keys`, which are in the order of their locks. `None` for a
    /// skipped row.
    pub(super) async fn begin(
        server: &Server,
        keys: &[Key<'_>],
        locks: Locks,
        deadline: Instant,
    ) -> Result<(Transaction, Vec<Option<Stored>>), BackendError> {
        let mut tries = 0;
        loop {
            let lent = server.connections.get(deadline).await.unwrap_or_else(|| Err(server.late()))?;
            let is_own = lent.is_own();
            let mut transaction = Transaction {
                server: server.clone(),
                lent: Some(lent),
                is_waiting: false,
                time: SystemTime::UNIX_EPOCH,
            };
            tries += 1;
            match transaction.lock_and_read(keys, locks, deadline).await {
                Ok(stored) => return Ok((transaction, stored)),
                Err(failure) if failure.ends_connection => {
                    transaction.discard_all();
                    if tries >= TRIES || is_own && tries >= 2 || Instant::now() >= deadline {
                        return Err(failure.error);
                    }
                }
                Err(failure) => return Err(failure.error),
            }
        }
    }

    async fn lock_and_read(
        &mut self,
        keys: &[Key<'_>],
        locks: Locks,
        deadline: Instant,
    ) -> Result<Vec<Option<Stored>>, Failure> {
        let (table, synchronous) = (&self.server.table, self.server.commits_synchronously);
        let numbered = keys.iter().map(|key| (&*key.name, key.lock));
        let lock = functions::lock(table.schema(), numbered, locks, left(deadline), synchronous);
        let answer = self.ask(&format!("{BEGIN};{lock}")).await?;
        let row = answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        let read = row.and_then(|answer| functions::read(answer, keys.len()));
        let (time, rows) = read.ok_or_else(|| self.server.malformed())?;
        self.time = time;
        Ok(rows)
    }

    async fn ask(&mut self, sql: &str) -> Result<Vec<SimpleQueryMessage>, Failure> {
        let Some(lent) = &self.lent else { return Err(self.server.late().into()) };
        self.is_waiting = true;
        let answer = lent.client().simple_query(sql).await;
        self.is_waiting = false;
        answer.map_err(|error| Failure::of(&error, &self.server.table))
    }

    /// Drops the connection and those opened before it, which may be broken too. A pool's
    /// connection is returned with a `ROLLBACK`, because it may still be alive.
    fn discard_all(&mut self) {
        if let Some(lent) = self.lent.take_if(|lent| lent.is_own()) {
            lent.discard_all();
        }
    }

    /// The server's time, when all locks were held.
    pub(super) fn time(&self) -> Timestamp {
        let since = self.time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Timestamp(since.as_nanos().try_into().unwrap_or(u64::MAX))
    }

    /// Writes rows, and commits. Without rows, ends without waiting.
    pub(super) async fn commit(mut self, writes: &[Write<'_>], deadline: Instant) -> Result<(), BackendError> {
        if writes.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(self.server.late());
        }
        let written = self.write(writes).await;
        match &written {
            Ok(()) => drop(self.lent.take()),
            Err(failure) if failure.ends_connection => self.discard_all(),
            // The server has not reached the `COMMIT`: dropped, this sends a `ROLLBACK`.
            Err(_) => {}
        }
        // Whether a lost transaction has committed is unknown, so it is not repeated.
        written.map_err(|failure| failure.error)
    }

    async fn write(&mut self, writes: &[Write<'_>]) -> Result<(), Failure> {
        let expiry = |write: &Write<'_>| table::expiry(self.time, write.idle_after, write.stored.expires_at);
        let expiries: Vec<u64> = writes.iter().map(expiry).collect();
        let rows = writes.iter().zip(&expiries).map(|(write, expiry)| (&*write.key.name, &*write.state, *expiry));
        let write = functions::write(self.server.table.schema(), rows);
        self.ask(&format!("{write};COMMIT")).await.map(drop)
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        let Some(lent) = self.lent.take() else { return };
        if self.is_waiting && lent.is_own() {
            lent.discard();
            return;
        }
        // Sent by the first poll, ahead of what the connection's next user sends.
        let rollback = pin!(lent.client().batch_execute("ROLLBACK"));
        let _ = rollback.poll(&mut Context::from_waker(Waker::noop()));
    }
}

/// Runs a transaction given as text.
pub(super) async fn run(server: &Server, sql: &str, deadline: Instant) -> Result<(), BackendError> {
    let lent = server.connections.get(deadline).await.unwrap_or_else(|| Err(server.late()))?;
    let mut transaction =
        Transaction { server: server.clone(), lent: Some(lent), is_waiting: true, time: SystemTime::UNIX_EPOCH };
    let Some(lent) = &transaction.lent else { return Err(server.late()) };
    let ran = timer::bounded(lent.client().batch_execute(sql), deadline).await;
    let ran = ran.ok_or_else(|| server.late())?.map_err(|error| Failure::of(&error, &server.table));
    transaction.is_waiting = false;
    match ran {
        Ok(()) => {
            drop(transaction.lent.take());
            Ok(())
        }
        Err(failure) => {
            if failure.ends_connection
                && let Some(lent) = transaction.lent.take_if(|lent| lent.is_own())
            {
                lent.discard();
            }
            Err(failure.error)
        }
    }
}

/// What begins every transaction.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";

/// Begins a transaction given as text. It locks at most `key`; its lock and its time-outs end by
/// the deadline.
pub(super) fn begin(key: Option<&Key<'_>>, deadline: Instant, commits_synchronously: bool) -> String {
    let left = left(deadline);
    let mut sql = format!(
        "{BEGIN};SET LOCAL lock_timeout={left};SET LOCAL statement_timeout={left};\
         SET LOCAL idle_in_transaction_session_timeout={left}"
    );
    if !commits_synchronously {
        sql.push_str(";SET LOCAL synchronous_commit=off");
    }
    if let Some(key) = key {
        // Writing to a String does not fail.
        let _ = write!(sql, ";SELECT pg_catalog.pg_advisory_xact_lock({})", key.lock);
    }
    sql
}

/// The time until the deadline, in milliseconds.
fn left(deadline: Instant) -> u128 {
    deadline.saturating_duration_since(Instant::now()).as_millis().max(1)
}
