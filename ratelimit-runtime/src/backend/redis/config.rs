//! Where the servers are and how to log in: from URLs or the environment.

use std::ffi::OsString;

use redis::{ConnectionAddr, IntoConnectionInfo};

use super::stream::{Address, Endpoint, Login};
use crate::error::{BackendError, BackendErrorKind};

const DEFAULT_HOST: &str = "127.0.0.1";
const DEFAULT_PORT: u16 = 6379;

/// Schemes of servers with TLS, and those that stand for the same without.
const ENCRYPTED: [(&str, &str); 2] = [("rediss", "redis"), ("valkeys", "valkey")];

/// What a URL or the environment says.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) address: Address,
    pub(super) login: Login,
    pub(super) encrypted: bool,
}

impl Settings {
    pub(super) fn endpoint(self) -> Endpoint {
        Endpoint { address: self.address, login: self.login }
    }
}

pub(super) fn invalid(message: impl Into<String>) -> BackendError {
    BackendError::new(BackendErrorKind::Configuration, message.into())
}

/// The server that a URL names.
pub(super) fn from_url(url: &str) -> Result<Settings, BackendError> {
    let Some((scheme, rest)) = url.split_once("://") else { return Err(unknown_scheme()) };
    let plain = ENCRYPTED.iter().find(|(encrypted, _)| *encrypted == scheme).map(|(_, plain)| *plain);
    match plain.unwrap_or(scheme) {
        "redis" | "valkey" | "unix" | "redis+unix" | "valkey+unix" => {}
        _ => return Err(unknown_scheme()),
    }
    if plain.is_some() && !cfg!(feature = "redis-tls") {
        return Err(invalid("the Redis URL asks for TLS, which needs the feature `redis-tls` of ratelimit-runtime"));
    }
    if rest.contains('#') {
        return Err(invalid("the Redis URL has a part behind `#`, which means nothing here"));
    }
    // redis's own message may quote a part of the URL.
    let info = format!("{}://{rest}", plain.unwrap_or(scheme)).into_connection_info().map_err(|_| {
        invalid("the Redis URL is not of the form `redis://user:password@host:port/database` or `unix:///path?db=0`")
    })?;
    let address = match info.addr() {
        ConnectionAddr::Tcp(host, port) => Address::Tcp(host.clone(), *port),
        ConnectionAddr::Unix(path) => Address::Unix(path.clone()),
        _ => return Err(unknown_scheme()),
    };
    let login = info.redis_settings();
    let login = Login {
        username: login.username().map(str::to_owned),
        password: login.password().map(str::to_owned),
        database: u32::try_from(login.db())
            .map_err(|_| invalid("the number of a Redis database is from 0 to 4294967295"))?,
    };
    if login.username.is_some() && login.password.is_none() {
        return Err(invalid("the Redis URL has a user, but no password"));
    }
    Ok(Settings { address, login, encrypted: plain.is_some() })
}

fn unknown_scheme() -> BackendError {
    // Whatever else it is may hold a password in any place.
    invalid("the Redis URL must begin with `redis://`, `rediss://`, `valkey://`, `valkeys://` or `unix://`")
}

/// The server that the environment names: `REDIS_URL`, else `REDIS_HOST`, `REDIS_PORT`, `REDIS_DB`, `REDIS_USERNAME` and
/// `REDIS_PASSWORD`, else this machine. Empty variables count as unset.
pub(super) fn from_environment(variable: impl Fn(&str) -> Option<OsString>) -> Result<Settings, BackendError> {
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
    let database = number("REDIS_DB")?.unwrap_or(0).into();
    let (username, password) = (read("REDIS_USERNAME")?, read("REDIS_PASSWORD")?);
    if username.is_some() && password.is_none() {
        return Err(invalid("REDIS_USERNAME is set, but REDIS_PASSWORD is not"));
    }
    let login = Login { username, password, database };
    Ok(Settings { address: Address::Tcp(host, port), login, encrypted: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Result<Settings, BackendError> {
        from_environment(|name| {
            variables.iter().find(|(variable, _)| *variable == name).map(|(_, value)| OsString::from(value))
        })
    }

    fn read(variables: &[(&str, &str)]) -> String {
        match environment(variables) {
            Ok(Settings { address, login, .. }) => {
                let or_none = |text: Option<String>| text.unwrap_or("-".to_owned());
                let (user, password) = (or_none(login.username), or_none(login.password));
                format!("{address} {} {user} {password}", login.database)
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
