//! What a failure of PostgreSQL means for a call.

use std::error::Error as _;

use tokio_postgres::Error;
use tokio_postgres::error::{DbError, Severity, SqlState};

use super::table::Table;
use crate::error::{BackendError, BackendErrorKind};

/// Why a statement failed.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: BackendError,
    /// The connection is broken. Another one may work.
    pub(super) ends_connection: bool,
}

impl Failure {
    pub(super) fn of(error: &Error, table: &Table) -> Failure {
        match error.as_db_error() {
            Some(answer) => Failure { ends_connection: ends_connection(answer), error: answered(answer, table) },
            None => Failure { ends_connection: true, error: unanswered(error) },
        }
    }
}

impl From<BackendError> for Failure {
    fn from(error: BackendError) -> Failure {
        Failure { error, ends_connection: false }
    }
}

/// Whether the session ends, or is on a server that cannot write, such as a primary that has become
/// a standby.
fn ends_connection(answer: &DbError) -> bool {
    let is_fatal = match answer.parsed_severity() {
        Some(severity) => matches!(severity, Severity::Fatal | Severity::Panic),
        None => matches!(answer.severity(), "FATAL" | "PANIC"),
    };
    // A standby refuses `BEGIN READ WRITE` as an unsupported feature.
    is_fatal || [SqlState::READ_ONLY_SQL_TRANSACTION, SqlState::FEATURE_NOT_SUPPORTED].contains(answer.code())
}

fn answered(answer: &DbError, table: &Table) -> BackendError {
    let code = answer.code();
    let (kind, then) = match code {
        _ if [SqlState::UNDEFINED_TABLE, SqlState::UNDEFINED_FUNCTION, SqlState::INVALID_SCHEMA_NAME]
            .contains(code) =>
        {
            let then = format!(
                ": create {} and its functions with `PostgresBackend::create_table` or the SQL of `PostgresBackend::migration`",
                table.name()
            );
            (BackendErrorKind::Configuration, then)
        }
        _ if *code == SqlState::INSUFFICIENT_PRIVILEGE => {
            let then = format!(
                ": the user needs USAGE on the schema, SELECT, INSERT, UPDATE and DELETE on {}, and EXECUTE on its \
                 functions",
                table.name()
            );
            (BackendErrorKind::Configuration, then)
        }
        _ if [SqlState::LOCK_NOT_AVAILABLE, SqlState::QUERY_CANCELED].contains(code) => {
            (BackendErrorKind::Timeout, String::new())
        }
        _ if ends_connection(answer) => (BackendErrorKind::Unreachable, String::new()),
        _ => (BackendErrorKind::Refused, String::new()),
    };
    // `message` alone: details may quote rows.
    BackendError::new(kind, format!("PostgreSQL: {} ({}){then}", answer.message(), code.code()))
}

/// The words of the error and of its cause, which is a socket's, a TLS connector's or a parser's.
fn unanswered(error: &Error) -> BackendError {
    let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
    BackendError::new(BackendErrorKind::Unreachable, format!("PostgreSQL: {error}{cause}"))
}
