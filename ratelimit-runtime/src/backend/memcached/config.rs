//! Where the servers are, from a URL or the environment.

use std::ffi::OsString;
use std::time::Duration;

use super::address::Address;
use crate::duration;
use crate::error::BackendError;

const DEFAULT_HOST: &str = "127.0.0.1";
const DEFAULT_PORT: u16 = 11_211;
/// The most servers of a URL, more than any fleet has.
const MOST_SERVERS: usize = 256;

/// Settings from a URL or the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) servers: Vec<Address>,
    pub(super) timeout: Option<Duration>,
}

/// The servers of `memcached://host:port,host:port?timeout=30ms` or `memcached:///path/to/socket`.
///
/// No message repeats a part of the URL that may be a password.
pub(super) fn from_url(url: &str) -> Result<Settings, BackendError> {
    let rest = match url.split_once("://") {
        Some(("memcached" | "memcache", rest)) => rest,
        Some(("memcacheds" | "memcached+tls" | "memcached+ssl", _)) => return Err(no_tls()),
        _ => return Err(form()),
    };
    let (place, query) = rest.split_once('?').map_or((rest, None), |(place, query)| (place, Some(query)));
    if place.contains('@') {
        return Err(BackendError::configuration("the Memcached URL has a login, which is not supported (no SASL)"));
    }
    let timeout = query.map(timeout_of).transpose()?;
    if place.starts_with('/') {
        #[cfg(unix)]
        return Ok(Settings { servers: vec![Address::Unix(place.into())], timeout });
        #[cfg(not(unix))]
        return Err(BackendError::configuration("there are no unix sockets on this system"));
    }
    Ok(Settings { servers: servers(place.strip_suffix('/').unwrap_or(place)).ok_or_else(form)?, timeout })
}

/// The servers in the environment: `MEMCACHED_URL`, else `MEMCACHED_SERVERS` (`host:port,host:port`,
/// as libmemcached's tools read it), else this machine. Empty variables count as unset.
pub(super) fn from_environment(variable: impl Fn(&str) -> Option<OsString>) -> Result<Settings, BackendError> {
    let read = |name: &str| match variable(name).map(OsString::into_string) {
        Some(Ok(value)) => Ok(Some(value).filter(|value| !value.is_empty())),
        Some(Err(_)) => Err(BackendError::configuration(format!("the environment variable {name} is not UTF-8"))),
        None => Ok(None),
    };
    if let Some(url) = read("MEMCACHED_URL")? {
        return from_url(&url);
    }
    let servers = match read("MEMCACHED_SERVERS")? {
        Some(list) => servers(&list).ok_or_else(|| {
            BackendError::configuration(
                "the environment variable MEMCACHED_SERVERS is not of the form `host:port,host:port`",
            )
        })?,
        None => vec![Address::Tcp(DEFAULT_HOST.to_owned(), DEFAULT_PORT)],
    };
    Ok(Settings { servers, timeout: None })
}

fn timeout_of(query: &str) -> Result<Duration, BackendError> {
    let Some(text) = query.strip_prefix("timeout=") else {
        let asks_for_tls = query.contains("tls") || query.contains("ssl");
        return Err(if asks_for_tls {
            no_tls()
        } else {
            BackendError::configuration("the query of the Memcached URL has only `timeout`, as in `?timeout=30ms`")
        });
    };
    duration::parse(text)
        .map(Duration::from_nanos)
        .map_err(|_| BackendError::configuration("`timeout` in the Memcached URL is not a duration such as `30ms`"))
}

/// `host:port,host:port`. Ports and brackets of IPv6 addresses as in a URL; the port may be left out.
fn servers(list: &str) -> Option<Vec<Address>> {
    let servers: Option<Vec<Address>> = list.split(',').map(|server| address(server.trim())).collect();
    let servers = servers?;
    let is_twice = servers.iter().enumerate().any(|(place, server)| servers[..place].contains(server));
    (servers.len() <= MOST_SERVERS && !is_twice).then_some(servers)
}

fn address(server: &str) -> Option<Address> {
    let (host, port) = match server.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, port)) => (host, Some(port.strip_prefix(':')?)),
        None => server.split_once(':').map_or((server, None), |(host, port)| (host, Some(port))),
    };
    let is_host = !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:%".contains(&byte));
    let port = port.map_or(Some(DEFAULT_PORT), |port| port.parse().ok().filter(|port| *port > 0))?;
    is_host.then(|| Address::Tcp(host.to_owned(), port))
}

fn form() -> BackendError {
    BackendError::configuration(
        "the Memcached URL is not of the form `memcached://host:port,host:port` or `memcached:///path/to/socket`",
    )
}

fn no_tls() -> BackendError {
    BackendError::configuration("the Memcached URL asks for TLS, which is not supported")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::BackendErrorKind;

    fn shown(settings: Result<Settings, BackendError>) -> String {
        match settings {
            Ok(Settings { servers, timeout }) => {
                let servers: Vec<String> = servers.iter().map(ToString::to_string).collect();
                format!("{}{}", servers.join(" "), timeout.map(|timeout| format!(" {timeout:?}")).unwrap_or_default())
            }
            Err(error) => {
                assert_eq!(error.kind(), BackendErrorKind::Configuration);
                format!("error: {error}")
            }
        }
    }

    fn environment(variables: &[(&str, &str)]) -> String {
        shown(from_environment(|name| {
            variables.iter().find(|(variable, _)| *variable == name).map(|(_, value)| OsString::from(value))
        }))
    }

    #[test]
    fn urls_name_servers() {
        for (url, expected) in [
            ("memcached://cache", "cache:11211"),
            ("memcache://cache:1", "cache:1"),
            ("memcached://cache:1/", "cache:1"),
            ("memcached://one:1,two,[::1]:3,[::2]", "one:1 two:11211 [::1]:3 [::2]:11211"),
            ("memcached://cache?timeout=30ms", "cache:11211 30ms"),
            ("memcached:///run/memcached.sock", "/run/memcached.sock"),
            ("memcached:///run/memcached.sock?timeout=1s", "/run/memcached.sock 1s"),
        ] {
            assert_eq!(shown(from_url(url)), expected, "{url}");
        }
    }

    #[test]
    fn mistakes_are_named_without_secrets() {
        for (url, part) in [
            ("s3cret", "form"),
            ("redis://s3cret", "form"),
            ("memcached://", "form"),
            ("memcached://a,,b", "form"),
            ("memcached://a,a", "form"),
            ("memcached://a:0", "form"),
            ("memcached://a:s3cret", "form"),
            ("memcached://a/s3cret", "form"),
            ("memcached://a:1:2", "form"),
            ("memcached://[::1]2", "form"),
            ("memcached://user:s3cret@a", "login"),
            ("memcacheds://s3cret", "TLS"),
            ("memcached://a?tls=s3cret", "TLS"),
            ("memcached://a?timeout=s3cret", "duration"),
            ("memcached://a?pool=s3cret", "`timeout`"),
            ("memcached://a?", "`timeout`"),
        ] {
            let message = shown(from_url(url));
            assert!(message.starts_with("error") && message.contains(part), "{url}: {message}");
            assert!(!message.contains("s3cret"), "{message}");
        }
    }

    #[test]
    fn the_environment_names_servers() {
        assert_eq!(environment(&[]), "127.0.0.1:11211");
        assert_eq!(environment(&[("MEMCACHED_URL", ""), ("MEMCACHED_SERVERS", "")]), "127.0.0.1:11211");
        let servers = ("MEMCACHED_SERVERS", "one:1, two");
        assert_eq!(environment(&[servers]), "one:1 two:11211");
        assert_eq!(environment(&[servers, ("MEMCACHED_URL", "memcached://three")]), "three:11211");
        assert!(environment(&[("MEMCACHED_SERVERS", "s3cret:x")]).contains("MEMCACHED_SERVERS"));
        assert!(!environment(&[("MEMCACHED_SERVERS", "s3cret:x")]).contains("s3cret"));
    }
}
