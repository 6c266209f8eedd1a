//! What all transactions of a process share: connections, the table, settings. A cheap handle.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use super::connections::Connections;
use super::table::Table;
use crate::error::{BackendError, BackendErrorKind};

/// One process's access to the server.
#[derive(Clone)]
pub(super) struct Server(Arc<Inner>);

pub(super) struct Inner {
    pub(super) connections: Connections,
    pub(super) table: Table,
    /// The longest time from a call to its answer.
    pub(super) timeout: Duration,
    pub(super) commits_synchronously: bool,
}

impl Deref for Server {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Server {
    pub(super) fn new(
        connections: Connections,
        table: Table,
        timeout: Duration,
        commits_synchronously: bool,
    ) -> Server {
        Server(Arc::new(Inner { connections, table, timeout, commits_synchronously }))
    }

    /// The error of a call that took too long.
    pub(super) fn late(&self) -> BackendError {
        let message = format!("PostgreSQL has not answered within {:?}", self.timeout);
        BackendError::new(BackendErrorKind::Timeout, message)
    }

    /// The error of an answer that does not fit the table.
    pub(super) fn malformed(&self) -> BackendError {
        let message = format!("PostgreSQL: {} is not as it should be", self.table.name());
        BackendError::new(BackendErrorKind::Refused, message)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("table", &self.table.name())
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}
