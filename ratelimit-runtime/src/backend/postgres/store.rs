//! Decisions in transactions: the [`Transport`] of PostgreSQL.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::connections::Connections;
use super::pruning::Pruning;
use super::table::{Statements, Table};
use super::transaction::{self, Key, Locks, Stored, Transaction, Write};
use crate::backend::coalesce::{Answers, Transport};
use crate::backend::remote::{Applied, apply};
use crate::backend::{Action, Answer, Outcome, Request, Timestamp};
use crate::error::{BackendError, BackendErrorKind};

/// One process's part of a backend. A cheap handle.
#[derive(Clone)]
pub(super) struct Store(Arc<Inner>);

pub(super) struct Inner {
    pub(super) connections: Connections,
    pub(super) table: Table,
    pub(super) statements: Statements,
    pub(super) timeout: Duration,
    pub(super) commits_synchronously: bool,
    pub(super) pruning: Pruning,
}

impl Deref for Store {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

/// Requests on one bucket.
struct Asked<'a> {
    key: Key<'a>,
    requests: Vec<&'a Request>,
    /// Where the answers go.
    places: Vec<usize>,
}

impl Store {
    pub(super) fn new(connections: Connections, table: Table, timeout: Duration, commits_synchronously: bool) -> Store {
        let (statements, pruning) = (table.statements(), Pruning::new());
        Store(Arc::new(Inner { connections, table, statements, timeout, commits_synchronously, pruning }))
    }

    pub(super) fn begin(&self, keys: &[Key<'_>], locks: Locks, deadline: Instant) -> String {
        transaction::begin(keys, locks, deadline, self.commits_synchronously)
    }

    pub(super) fn malformed(&self) -> BackendError {
        BackendError::new(
            BackendErrorKind::Refused,
            format!("PostgreSQL: {} is not as it should be", self.table.name()),
        )
    }

    /// Creates the table, unless it exists.
    pub(super) async fn create_table(&self, deadline: Instant) -> Result<(), BackendError> {
        // A user who may use it may not always create it.
        let uses = format!("SELECT FROM {} LIMIT 0", self.table.name());
        if transaction::run(self, &uses, deadline).await.is_ok() {
            return Ok(());
        }
        // Two that create one schema or table at once would fail.
        let key = Key::of_migration(self);
        let begin = transaction::begin(&[key], Locks::Wait, deadline, true);
        transaction::run(self, &format!("{begin};{};COMMIT", self.table.migration()), deadline).await
    }

    /// Decides in one transaction, and adds the answers. Returns what it left out because other
    /// transactions hold it.
    async fn decide<'a>(
        &self,
        asked: Vec<Asked<'a>>,
        locks: Locks,
        deadline: Instant,
        answers: &mut [Option<Result<Answer, BackendError>>],
    ) -> Result<Vec<Asked<'a>>, BackendError> {
        let keys: Vec<Key<'a>> = asked.iter().map(|asked| asked.key.clone()).collect();
        let (transaction, stored) = Transaction::begin(self, &keys, locks, deadline).await?;
        let (mut writes, mut left_out, mut decided) = (Vec::new(), Vec::new(), Vec::new());
        for ((asked, key), stored) in asked.into_iter().zip(&keys).zip(&stored) {
            let Some(stored) = stored else {
                left_out.push(asked);
                continue;
            };
            match decided_on(stored, &asked.requests, transaction.time()) {
                Ok(applied) => {
                    decided.extend(asked.places.into_iter().zip(applied.answers));
                    let idle_after = applied.expires_at.since(applied.now);
                    writes.extend(applied.bytes.map(|state| Write { key, stored, state, idle_after }));
                }
                Err(error) => asked.places.into_iter().for_each(|place| answers[place] = Some(Err(error.clone()))),
            }
        }
        transaction.commit(&writes, deadline).await?;
        decided.into_iter().for_each(|(place, answer)| answers[place] = Some(Ok(answer)));
        Ok(left_out)
    }

    /// Decides on the buckets of one call: all are charged, or none is.
    pub(super) async fn decide_together(
        &self,
        requests: &[Request],
        deadline: Instant,
    ) -> Result<Vec<Answer>, BackendError> {
        let mut asked: Vec<(usize, Key<'_>)> =
            requests.iter().map(|request| Key::of(request, self)).enumerate().collect();
        asked.sort_by_key(|(_, key)| transaction::order(key));
        let keys: Vec<Key<'_>> = asked.iter().map(|(_, key)| key.clone()).collect();
        let (transaction, rows) = Transaction::begin(self, &keys, Locks::Wait, deadline).await?;
        let mut applied = Vec::with_capacity(requests.len());
        for ((place, key), stored) in asked.iter().zip(&rows) {
            let stored = stored.as_ref().ok_or_else(|| self.malformed())?;
            applied.push((*place, key, stored, decided_on(stored, &[&requests[*place]], transaction.time())?));
        }
        let is_denial = |applied: &Applied| matches!(applied.answers[..], [Answer { outcome: Outcome::Denied(_), .. }]);
        let is_denied = applied.iter().any(|(.., applied)| is_denial(applied));
        let (mut answers, mut writes): (Vec<Option<Answer>>, _) = (vec![None; requests.len()], Vec::new());
        for (place, key, stored, mut applied) in applied {
            if is_denied && !is_denial(&applied) {
                let peek = peek(&requests[place]);
                let peeked = decided_on(stored, &[&peek], transaction.time())?;
                applied = Applied { bytes: None, ..peeked };
            }
            let idle_after = applied.expires_at.since(applied.now);
            // A denial may have started a block.
            writes.extend(applied.bytes.map(|state| Write { key, stored, state, idle_after }));
            answers[place] = applied.answers.pop();
        }
        transaction.commit(&writes, deadline).await?;
        answers.into_iter().collect::<Option<Vec<Answer>>>().ok_or_else(|| self.malformed())
    }
}

/// Decides on a stored bucket at the server's time, or at a test's.
fn decided_on(stored: &Stored, requests: &[&Request], time: Timestamp) -> Result<Applied, BackendError> {
    let bytes = stored.state.as_deref().unwrap_or_default();
    let test_time = requests.first().and_then(|request| request.test_time);
    apply(bytes, requests, |_| test_time.unwrap_or(time))
}

/// The request that says what `request` would do.
fn peek(request: &Request) -> Request {
    let action = match request.action {
        Action::Take { cost, max_wait } => Action::Peek { cost, max_wait },
        ref action => action.clone(),
    };
    Request { action, ..request.clone() }
}

impl Transport for Store {
    async fn send(&self, requests: &[&Request], deadline: Instant) -> Answers {
        let mut asked: Vec<Asked<'_>> = Vec::new();
        for (place, request) in requests.iter().enumerate() {
            match asked.last_mut() {
                Some(last) if last.requests[0].bucket() == request.bucket() => {
                    last.requests.push(request);
                    last.places.push(place);
                }
                _ => asked.push(Asked { key: Key::of(request, self), requests: vec![request], places: vec![place] }),
            }
        }
        asked.sort_by_key(|asked| transaction::order(&asked.key));
        let mut answers = vec![None; requests.len()];
        // With several buckets, calls on one must not wait because another one is held.
        let left_out = self.decide(asked, Locks::Skip, deadline, &mut answers).await?;
        if !left_out.is_empty() {
            let places: Vec<usize> = left_out.iter().flat_map(|asked| asked.places.clone()).collect();
            if let Err(error) = self.decide(left_out, Locks::Wait, deadline, &mut answers).await {
                places.into_iter().for_each(|place| answers[place] = Some(Err(error.clone())));
            }
        }
        Ok(answers.into_iter().map(|answer| answer.unwrap_or_else(|| Err(self.malformed()))).collect())
    }

    fn timeout(&self) -> Duration {
        self.timeout
    }

    fn late(&self) -> BackendError {
        let message = format!("PostgreSQL has not answered within {:?}", self.timeout);
        BackendError::new(BackendErrorKind::Timeout, message)
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("table", &self.table.name())
            .field("connections", &self.connections)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}
