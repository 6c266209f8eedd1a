//! One transaction on some buckets, in two round trips. The first locks the buckets, and then reads
//! them and the server's clock. The second writes what has changed, and commits. A bucket without a
//! row takes one more.
//!
//! Locks are advisory locks of the transaction, on a hash of the schema and the key. They hold a
//! bucket that has no row yet, write nothing, and go with the transaction, behind a pooler too. The
//! clock is read by a statement that begins when all locks are held, as is the snapshot of the rows.
//!
//! Settings are those of the transaction, statements are unnamed: a session has no state.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime};

use sha2::{Digest, Sha256};
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use super::connections::Lent;
use super::failure::Failure;
use super::server::Server;
use super::table::{self, TIME, TRY_LOCKS};
use crate::backend::{Request, Timestamp};
use crate::error::BackendError;
use crate::rt::timer;

/// The longest key, in bytes.
const LONGEST_KEY: usize = 512;
/// Tries to find a connection that is not broken. Until a transaction is locked, nothing is charged.
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

    /// What is locked while the table is created. No bucket has this name.
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
    expires_at: Option<SystemTime>,
}

/// A row to write.
pub(super) struct Write<'a> {
    pub(super) key: &'a Key<'a>,
    pub(super) stored: &'a Stored,
    pub(super) state: Vec<u8>,
    /// From the transaction's time on.
    pub(super) idle_after: Duration,
}

/// An open transaction. Dropped, it is rolled back, and its connection goes back.
pub(super) struct Transaction {
    server: Server,
    /// None once it has ended.
    lent: Option<Lent>,
    /// Whether the server owes an answer.
    is_waiting: bool,
    time: SystemTime,
}

impl Transaction {
    /// Locks and reads the rows, of which the keys stand in the order of their locks. `None` for one
    /// that is skipped.
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
                    // Others from before may be as broken.
                    if let Some(lent) = transaction.lent.take() {
                        lent.discard_all();
                    }
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
        let Some(lent) = &self.lent else { return Err(self.server.late().into()) };
        let (client, statements) = (lent.client(), &self.server.statements);
        let failed = |error| Failure::of(&error, &self.server.table);
        let begin_sql = begin(keys, locks, deadline, self.server.commits_synchronously);
        let names: Vec<&[u8]> = keys.iter().map(|key| key.name.as_bytes()).collect();
        self.is_waiting = true;
        let (rows, locked) = if let [name] = names[..] {
            let parameters: [(&(dyn ToSql + Sync), Type); 1] = [(&name, Type::BYTEA)];
            let read = client.query_typed(&statements.read_one, &parameters);
            let (begun, rows) = both(client.batch_execute(&begin_sql), read).await;
            self.is_waiting = false;
            begun.map_err(failed)?;
            let mut rows = rows.map_err(failed)?;
            if rows.is_empty() {
                // One round trip more for a new bucket, instead of a join for all others.
                self.is_waiting = true;
                let time = client.query_typed(TIME, &[]).await;
                self.is_waiting = false;
                rows = time.map_err(failed)?;
            }
            (rows, None)
        } else {
            let numbers: Vec<i64> = keys.iter().map(|key| key.lock).collect();
            let lock = async {
                match locks {
                    Locks::Wait => Ok(None),
                    Locks::Skip => client.query_typed(TRY_LOCKS, &[(&numbers, Type::INT8_ARRAY)]).await.map(Some),
                }
            };
            let parameters: [(&(dyn ToSql + Sync), Type); 1] = [(&names, Type::BYTEA_ARRAY)];
            let read = client.query_typed(&statements.read_many, &parameters);
            let (begun, (locked, rows)) = both(client.batch_execute(&begin_sql), both(lock, read)).await;
            self.is_waiting = false;
            begun.map_err(failed)?;
            (rows.map_err(failed)?, locked.map_err(failed)?)
        };
        if rows.len() != keys.len() || locked.as_ref().is_some_and(|locked| locked.len() != keys.len()) {
            return Err(self.server.malformed().into());
        }
        let mut stored = Vec::with_capacity(rows.len());
        for (place, row) in rows.iter().enumerate() {
            let is_locked = match &locked {
                Some(locked) => locked[place].try_get(0).map_err(failed)?,
                None => true,
            };
            self.time = self.time.max(row.try_get(0).map_err(failed)?);
            stored.push(if is_locked { Some(read(row).map_err(failed)?) } else { None });
        }
        Ok(stored)
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
        // The server has answered `COMMIT`, or the connection is lost.
        if let Some(lent) = self.lent.take()
            && written.as_ref().is_err_and(|failure| failure.ends_connection)
        {
            lent.discard_all();
        }
        // Whether a lost one has committed is unknown. It is not repeated.
        written.map_err(|failure| failure.error)
    }

    async fn write(&mut self, writes: &[Write<'_>]) -> Result<(), Failure> {
        let Some(lent) = &self.lent else { return Err(self.server.late().into()) };
        let (client, statements) = (lent.client(), &self.server.statements);
        let expiry = |write: &Write<'_>| table::expiry(self.time, write.idle_after, write.stored.expires_at);
        self.is_waiting = true;
        let commit = client.batch_execute("COMMIT");
        let (written, committed) = if let [write] = writes {
            let parameters: [(&(dyn ToSql + Sync), Type); 3] = [
                (&write.key.name.as_bytes(), Type::BYTEA),
                (&write.state, Type::BYTEA),
                (&expiry(write), Type::TIMESTAMPTZ),
            ];
            both(client.execute_typed(&statements.write_one, &parameters), commit).await
        } else {
            let names: Vec<&[u8]> = writes.iter().map(|write| write.key.name.as_bytes()).collect();
            let states: Vec<&[u8]> = writes.iter().map(|write| write.state.as_slice()).collect();
            let expiries: Vec<SystemTime> = writes.iter().map(expiry).collect();
            let parameters: [(&(dyn ToSql + Sync), Type); 3] =
                [(&names, Type::BYTEA_ARRAY), (&states, Type::BYTEA_ARRAY), (&expiries, Type::TIMESTAMPTZ_ARRAY)];
            both(client.execute_typed(&statements.write_many, &parameters), commit).await
        };
        self.is_waiting = false;
        let failed = |error| Failure::of(&error, &self.server.table);
        written.map_err(failed)?;
        committed.map_err(failed)
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
                && let Some(lent) = transaction.lent.take()
            {
                lent.discard();
            }
            Err(failure.error)
        }
    }
}

fn read(row: &Row) -> Result<Stored, tokio_postgres::Error> {
    Ok(Stored { state: row.try_get(1)?, expires_at: row.try_get(2)? })
}

/// What begins every transaction: its locks and time-outs end by the deadline.
pub(super) fn begin(keys: &[Key<'_>], locks: Locks, deadline: Instant, commits_synchronously: bool) -> String {
    let left = deadline.saturating_duration_since(Instant::now()).as_millis().max(1);
    let mut sql = format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;SET LOCAL lock_timeout={left};\
         SET LOCAL statement_timeout={left};SET LOCAL idle_in_transaction_session_timeout={left}"
    );
    if !commits_synchronously {
        sql.push_str(";SET LOCAL synchronous_commit=off");
    }
    if locks == Locks::Wait || keys.len() == 1 {
        for (place, key) in keys.iter().enumerate() {
            let separator = if place == 0 { ";SELECT " } else { "," };
            // Writing to a String does not fail.
            let _ = write!(sql, "{separator}pg_catalog.pg_advisory_xact_lock({})", key.lock);
        }
    }
    sql
}

/// Both outputs. The first poll polls the first future first: its request is sent first.
async fn both<A: Future, B: Future>(a: A, b: B) -> (A::Output, B::Output) {
    let (mut a, mut b) = (pin!(a), pin!(b));
    let (mut of_a, mut of_b) = (None, None);
    poll_fn(move |context| {
        if of_a.is_none()
            && let Poll::Ready(output) = a.as_mut().poll(context)
        {
            of_a = Some(output);
        }
        if of_b.is_none()
            && let Poll::Ready(output) = b.as_mut().poll(context)
        {
            of_b = Some(output);
        }
        match (of_a.take(), of_b.take()) {
            (Some(output_a), Some(output_b)) => Poll::Ready((output_a, output_b)),
            (output_a, output_b) => {
                (of_a, of_b) = (output_a, output_b);
                Poll::Pending
            }
        }
    })
    .await
}
