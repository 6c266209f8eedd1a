//! Decisions in transactions: the [`Transport`] of PostgreSQL.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::functions::{Locks, Stored};
use super::pruning::Pruning;
use super::server::Server;
use super::transaction::{self, Key, Transaction, Write};
use crate::backend::coalesce::{Answers, Partly, Transport};
use crate::backend::remote::{Applied, apply};
use crate::backend::{Action, Answer, Outcome, Request, Timestamp};
use crate::error::BackendError;
use crate::rt::timer;

/// A transaction is ended this long after its deadline. Until then, a slow server may still answer
/// that nothing was taken.
const GRACE: Duration = Duration::from_millis(100);

/// One process's part of a backend. A cheap handle.
#[derive(Clone)]
pub(super) struct Store {
    server: Server,
    pruning: Arc<Pruning>,
}

/// Requests on one bucket.
struct OneBucket<'a> {
    key: Key<'a>,
    requests: Vec<&'a Request>,
    /// Where the answers go.
    places: Vec<usize>,
}

impl Store {
    pub(super) fn new(server: Server) -> Store {
        Store { server, pruning: Arc::new(Pruning::new()) }
    }

    /// Creates the table, unless it exists.
    pub(super) async fn create_table(&self, deadline: Instant) -> Result<(), BackendError> {
        // A user who may use the table may not be allowed to create it.
        if transaction::run(&self.server, &self.server.table.uses(), deadline).await.is_ok() {
            return Ok(());
        }
        // Creating one schema or table twice at the same time would fail.
        let key = Key::of_migration(&self.server);
        let begin = transaction::begin(Some(&key), deadline, true);
        transaction::run(&self.server, &format!("{begin};{};COMMIT", self.server.table.migration()), deadline).await
    }

    /// Decides in one transaction. `None` for requests on a bucket that is skipped.
    async fn decide(&self, requests: &[&Request], locks: Locks, deadline: Instant) -> Partly {
        // Boxed: it is large.
        let decided = Box::pin(self.transact(requests, locks, deadline));
        timer::bounded(decided, deadline + GRACE).await.unwrap_or_else(|| Err(self.server.late()))
    }

    async fn transact(&self, requests: &[&Request], locks: Locks, deadline: Instant) -> Partly {
        let buckets = self.by_bucket(requests);
        let keys: Vec<Key<'_>> = buckets.iter().map(|bucket| bucket.key.clone()).collect();
        let (transaction, stored) = Transaction::begin(&self.server, &keys, locks, deadline).await?;
        let (mut answers, mut writes) = (vec![None; requests.len()], Vec::new());
        for (bucket, stored) in buckets.iter().zip(&stored) {
            let Some(stored) = stored else { continue };
            match decided_on(stored, &bucket.requests, transaction.time()) {
                Ok(applied) => {
                    let idle_after = applied.expires_at.since(applied.now);
                    writes.extend(applied.bytes.map(|state| Write { key: &bucket.key, stored, state, idle_after }));
                    for (place, answer) in bucket.places.iter().zip(applied.answers) {
                        answers[*place] = Some(Ok(answer));
                    }
                }
                Err(error) => bucket.places.iter().for_each(|place| answers[*place] = Some(Err(error.clone()))),
            }
        }
        self.commit(transaction, &writes, deadline).await?;
        Ok(answers)
    }

    /// The requests of each bucket, in the order of the locks.
    fn by_bucket<'a>(&self, requests: &[&'a Request]) -> Vec<OneBucket<'a>> {
        let mut buckets: Vec<OneBucket<'a>> = Vec::new();
        for (place, request) in requests.iter().enumerate() {
            match buckets.last_mut() {
                Some(last) if last.requests[0].bucket() == request.bucket() => {
                    last.requests.push(request);
                    last.places.push(place);
                }
                _ => buckets.push(OneBucket {
                    key: Key::of(request, &self.server),
                    requests: vec![request],
                    places: vec![place],
                }),
            }
        }
        buckets.sort_by_key(|bucket| transaction::order(&bucket.key));
        buckets
    }

    async fn commit(
        &self,
        transaction: Transaction,
        writes: &[Write<'_>],
        deadline: Instant,
    ) -> Result<(), BackendError> {
        transaction.commit(writes, deadline).await?;
        if !writes.is_empty() {
            self.pruning.count(&self.server, writes.iter().filter(|write| write.stored.state.is_none()).count());
        }
        Ok(())
    }

    /// Decides on the buckets of one call: all are charged, or none is.
    pub(super) async fn decide_together(
        &self,
        requests: &[Request],
        deadline: Instant,
    ) -> Result<Vec<Answer>, BackendError> {
        // Boxed: it is large.
        let decided = Box::pin(self.transact_together(requests, deadline));
        timer::bounded(decided, deadline + GRACE).await.unwrap_or_else(|| Err(self.server.late()))
    }

    async fn transact_together(&self, requests: &[Request], deadline: Instant) -> Result<Vec<Answer>, BackendError> {
        let mut asked: Vec<(usize, Key<'_>)> =
            requests.iter().map(|request| Key::of(request, &self.server)).enumerate().collect();
        asked.sort_by_key(|(_, key)| transaction::order(key));
        let keys: Vec<Key<'_>> = asked.iter().map(|(_, key)| key.clone()).collect();
        let (transaction, rows) = Transaction::begin(&self.server, &keys, Locks::Wait, deadline).await?;
        let mut applied = Vec::with_capacity(requests.len());
        for ((place, key), stored) in asked.iter().zip(&rows) {
            let stored = stored.as_ref().ok_or_else(|| self.server.malformed())?;
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
        self.commit(transaction, &writes, deadline).await?;
        answers.into_iter().collect::<Option<Vec<Answer>>>().ok_or_else(|| self.server.malformed())
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
        let answers = self.decide(requests, Locks::Wait, deadline).await?;
        Ok(answers.into_iter().map(|answer| answer.unwrap_or_else(|| Err(self.server.malformed()))).collect())
    }

    async fn send_merged(&self, requests: &[&Request], deadline: Instant) -> Partly {
        self.decide(requests, Locks::Skip, deadline).await
    }

    fn timeout(&self) -> Duration {
        self.server.timeout
    }

    fn late(&self) -> BackendError {
        self.server.late()
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.server.fmt(f)
    }
}
