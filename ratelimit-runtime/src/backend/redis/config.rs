//! Where the server is and how to log in: from a URL or the environment.

use std::ffi::OsString;
use std::time::Duration;

use redis::io::tcp::TcpSettings;
use redis::{ConnectionInfo, IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo};

use crate::error::{BackendError, BackendErrorKind};

const DEFAULT_HOST: &str = "127.0.0.1";
const DEFAULT_PORT: u16 = 6379;
/// Unacknowledged data for so long means that the connection is dead.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED: Duration = Duration::from_millis(500);

pub(super) fn invalid(message: impl Into<String>) -> BackendError {
    BackendError::new(BackendErrorKind::Configuration, message.into())
}

/// The server that a URL names.
pub(super) fn from_url(url: &str) -> Result<ConnectionInfo, BackendError> {
    let scheme = url.split_once("://").map(|(scheme, _)| scheme);
    match scheme {
        Some("redis" | "valkey" | "unix" | "redis+unix" | "valkey+unix") => {}
        Some("rediss" | "valkeys") => return Err(invalid("the Redis URL asks for TLS, which this build cannot do")),
        // Whatever else it is may hold a password in any place.
        _ => return Err(invalid("the Redis URL must begin with `redis://`, `valkey://` or `unix://`")),
    }
    // redis's own message may quote a part of the URL.
    let info = url.into_connection_info().map_err(|_| {
        invalid("the Redis URL is not of the form `redis://user:password@host:port/database` or `unix:///path?db=0`")
    })?;
    let protocol_given = url.split_once('?').is_some_and(|(_, query)| query.contains("protocol="));
    complete(info, protocol_given)
}

/// The server that the environment names: `REDIS_URL`, else `REDIS_HOST`, `REDIS_PORT`, `REDIS_DB`, `REDIS_USERNAME` and
/// `REDIS_PASSWORD`, else this machine. Empty variables count as unset.
pub(super) fn from_environment(variable: impl Fn(&str) -> Option<OsString>) -> Result<ConnectionInfo, BackendError> {
    let read = |name: &str| match variable(name).map(OsString::into_string) {
        Some(Ok(value)) => Ok(Some(value).filter(|value| !value.is_empty())),
        Some(Err(_)) => Err(invalid(format!("the environment variable {name} is not UTF-8"))),
        None => Ok(None),
    };
    if let Some(url) = read("REDIS_URL")? {
        return from_url(&url);
    }
    let number = |name: &str| match read(name)? {
        Some(value) => match value.parse::<u16>() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(invalid(format!("the environment variable {name} is not a number from 0 to 65535"))),
        },
        None => Ok(None),
    };
    let host = read("REDIS_HOST")?.unwrap_or_else(|| DEFAULT_HOST.to_owned());
    let port = number("REDIS_PORT")?.unwrap_or(DEFAULT_PORT);
    let mut login = RedisConnectionInfo::default().set_db(number("REDIS_DB")?.unwrap_or(0).into());
    match (read("REDIS_USERNAME")?, read("REDIS_PASSWORD")?) {
        (username, Some(password)) => {
            login = login.set_password(password);
            if let Some(username) = username {
                login = login.set_username(username);
            }
        }
        (Some(_), None) => return Err(invalid("REDIS_USERNAME is set, but REDIS_PASSWORD is not")),
        (None, None) => {}
    }
    let info = (host, port).into_connection_info().map_err(|_| invalid("REDIS_HOST is no host name"))?;
    complete(info.set_redis_settings(login), false)
}

/// What holds for every connection.
fn complete(info: ConnectionInfo, protocol_given: bool) -> Result<ConnectionInfo, BackendError> {
    // Its name and version are nothing that the server has to know, and would be one more command to allow.
    let mut login = info.redis_settings().clone().set_skip_set_lib_name();
    if login.db() < 0 {
        return Err(invalid("the number of a Redis database is not negative"));
    }
    if !protocol_given {
        // With RESP3 redis-rs tells at once that a connection is gone, not only when it is used next.
        login = login.set_protocol(ProtocolVersion::RESP3);
    }
    let tcp = TcpSettings::default().set_nodelay(true);
    #[cfg(target_os = "linux")]
    let tcp = tcp.set_user_timeout(UNACKNOWLEDGED);
    Ok(info.set_redis_settings(login).set_tcp_settings(tcp))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Result<ConnectionInfo, BackendError> {
        from_environment(|name| {
            variables.iter().find(|(variable, _)| *variable == name).map(|(_, value)| OsString::from(value))
        })
    }

    fn read(variables: &[(&str, &str)]) -> String {
        match environment(variables) {
            Ok(info) => {
                let login = info.redis_settings();
                let or_none = |text: Option<&str>| text.unwrap_or("-").to_owned();
                let (user, password) = (or_none(login.username()), or_none(login.password()));
                format!("{} {} {user} {password}", info.addr(), login.db())
            }
            Err(error) => {
                assert_eq!(error.kind(), BackendErrorKind::Configuration);
                format!("error: {error}")
            }
        }
    }

    #[test]
    fn without_variables_it_is_this_machine() {
        assert_eq!(read(&[]), "127.0.0.1:6379 0 - -");
    }

    #[test]
    fn the_url_comes_before_the_parts() {
        let url = ("REDIS_URL", "redis://app:s3cret@cache:7000/3");
        assert_eq!(read(&[url, ("REDIS_HOST", "other"), ("REDIS_PORT", "x")]), "cache:7000 3 app s3cret");
        assert_eq!(read(&[("REDIS_URL", "unix:///run/redis.sock?db=2")]), "/run/redis.sock 2 - -");
        assert_eq!(read(&[("REDIS_URL", "valkey://cache")]), "cache:6379 0 - -");
    }

    #[test]
    fn the_parts_make_up_the_server() {
        let parts = [
            ("REDIS_HOST", "cache"),
            ("REDIS_PORT", "7000"),
            ("REDIS_DB", "4"),
            ("REDIS_USERNAME", "app"),
            ("REDIS_PASSWORD", "s3cret"),
        ];
        assert_eq!(read(&parts), "cache:7000 4 app s3cret");
        assert_eq!(read(&[("REDIS_PASSWORD", "s3cret")]), "127.0.0.1:6379 0 - s3cret");
        assert_eq!(read(&[("REDIS_URL", ""), ("REDIS_HOST", ""), ("REDIS_DB", "1")]), "127.0.0.1:6379 1 - -");
    }

    #[test]
    fn a_mistake_is_named_without_its_value() {
        for (name, value) in [
            ("REDIS_URL", "s3cret"),
            ("REDIS_URL", "http://user:s3cret@cache"),
            ("REDIS_URL", "rediss://user:s3cret@cache"),
            ("REDIS_URL", "redis://user:s3cret@cache:port"),
            ("REDIS_URL", "redis://user:s3cret@cache/first"),
            ("REDIS_URL", "redis://user:s3cret@cache/-1"),
            ("REDIS_PORT", "s3cret"),
            ("REDIS_PORT", "70000"),
            ("REDIS_DB", "-1"),
            ("REDIS_USERNAME", "s3cret"),
        ] {
            let message = read(&[(name, value)]);
            assert!(message.starts_with("error: "), "{name}={value}: {message}");
            assert!(!message.contains("s3cret"), "{message}");
            assert!(name == "REDIS_URL" || message.contains(name), "{message}");
        }
    }
}
