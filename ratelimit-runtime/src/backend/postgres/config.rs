//! Where the server is and how to log in, from a URL or the environment.

use std::ffi::OsString;
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::Host;

use super::connections::OPENING;
use crate::error::BackendError;

const DEFAULT_HOST: &str = "127.0.0.1";
const DEFAULT_PORT: u16 = 5432;

/// The server of a URL, or of libpq's `key=value` form.
pub(super) fn from_url(url: &str) -> Result<Config, BackendError> {
    // The parser's own message may quote a part of the URL, and so of a password.
    let config: Config = url.parse().map_err(|_| {
        BackendError::configuration(
            "the PostgreSQL URL is not of the form `postgres://user:password@host:port/database`, or has a parameter \
             that tokio-postgres does not know (`sslmode` is `disable`, `prefer` or `require`: the connector checks \
             certificates)",
        )
    })?;
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        return Err(BackendError::configuration("the PostgreSQL URL names no host"));
    }
    Ok(config)
}

/// The server that the environment names.
pub(super) fn from_environment(variable: impl Fn(&str) -> Option<OsString>) -> Result<Config, BackendError> {
    // An empty variable counts as unset, as for libpq.
    let text = |name: &str| match variable(name).filter(|value| !value.is_empty()) {
        Some(value) => value.into_string().map(Some).map_err(|_| wrong(name, "no Unicode")),
        None => Ok(None),
    };
    if let Some(url) = text("DATABASE_URL")? {
        if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
            return Err(wrong("DATABASE_URL", "not a URL that begins with `postgres://`"));
        }
        return from_url(&url);
    }
    let mut config = Config::new();
    // tokio-postgres takes one that begins with `/` for the folder of a unix socket.
    for host in text("PGHOST")?.as_deref().unwrap_or(DEFAULT_HOST).split(',') {
        config.host(host);
    }
    if let Some(ports) = text("PGPORT")? {
        for port in ports.split(',') {
            config.port(port.parse().map_err(|_| wrong("PGPORT", "no number of a port"))?);
        }
        if ![1, config.get_hosts().len()].contains(&config.get_ports().len()) {
            return Err(wrong("PGPORT", "neither one port nor one for each host"));
        }
    }
    if let Some(user) = text("PGUSER")? {
        config.user(user);
    }
    if let Some(password) = text("PGPASSWORD")? {
        config.password(password);
    }
    if let Some(database) = text("PGDATABASE")? {
        config.dbname(database);
    }
    Ok(config)
}

fn wrong(variable: &str, what: &str) -> BackendError {
    BackendError::configuration(format!("the environment variable {variable} is {what}"))
}

/// Servers and database, without a login. Handles of the same name may share their buckets.
pub(super) fn server_name(config: &Config) -> String {
    let port = |place: usize| {
        let ports = config.get_ports();
        ports.get(place).or(ports.first()).copied().unwrap_or(DEFAULT_PORT)
    };
    let hosts: Vec<String> = if config.get_hosts().is_empty() {
        config.get_hostaddrs().iter().enumerate().map(|(place, host)| format!("{host}:{}", port(place))).collect()
    } else {
        let named = |(place, host): (usize, &Host)| match host {
            Host::Tcp(host) if host.contains(':') => format!("[{host}]:{}", port(place)),
            Host::Tcp(host) => format!("{host}:{}", port(place)),
            #[cfg(unix)]
            Host::Unix(path) => format!("{}:{}", path.display(), port(place)),
        };
        config.get_hosts().iter().enumerate().map(named).collect()
    };
    let database = config.get_dbname().or(config.get_user()).unwrap_or_default();
    format!("{}/{database}", hosts.join(","))
}

/// What the URL leaves open.
pub(super) fn completed(mut config: Config, timeout: Duration) -> Config {
    if config.get_application_name().is_none() {
        config.application_name("ratelimit");
    }
    if config.get_connect_timeout().is_none() {
        let hosts = config.get_hosts().len().max(config.get_hostaddrs().len()).max(1);
        // A host that is gone leaves time for the next one.
        config.connect_timeout(timeout.max(OPENING) / u32::try_from(hosts + 1).unwrap_or(u32::MAX));
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(set: &[(&str, &str)]) -> Result<Config, BackendError> {
        let set: Vec<(String, String)> = set.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        from_environment(|name| set.iter().find(|(set, _)| set == name).map(|(_, value)| value.into()))
    }

    fn named(set: &[(&str, &str)]) -> String {
        server_name(&environment(set).unwrap())
    }

    #[test]
    fn the_environment_names_the_server() {
        assert_eq!(named(&[]), "127.0.0.1:5432/");
        assert_eq!(named(&[("DATABASE_URL", "postgres://u:p@db/x"), ("PGHOST", "other")]), "db:5432/x");
        let pg = [("PGHOST", "a,b"), ("PGPORT", "1,2"), ("PGUSER", "u"), ("PGPASSWORD", "p"), ("PGDATABASE", "x")];
        assert_eq!(named(&pg), "a:1,b:2/x");
        let config = environment(&pg).unwrap();
        assert_eq!((config.get_user(), config.get_password()), (Some("u"), Some("p".as_bytes())));
        assert_eq!(named(&[("PGHOST", "/run/postgresql"), ("PGUSER", "u")]), "/run/postgresql:5432/u");
        assert_eq!(named(&[("PGHOST", ""), ("DATABASE_URL", "")]), "127.0.0.1:5432/");
    }

    #[test]
    fn what_is_wrong_is_named_without_secrets() {
        let wrong = [
            ("DATABASE_URL", "mysql://u:s3cret@h/x"),
            ("DATABASE_URL", "postgres://u:s3cret@h:port/x"),
            ("DATABASE_URL", "postgres://u@h/x?sslmode=verify-full&s3cret=1"),
            ("DATABASE_URL", "postgres:///x?user=s3cret"),
            ("PGPORT", "s3cret"),
            ("PGPORT", "1,2"),
        ];
        for (name, value) in wrong {
            let error = environment(&[(name, value)]).unwrap_err();
            assert!(!error.to_string().contains("s3cret"), "{error}");
            assert_eq!(error.kind(), crate::BackendErrorKind::Configuration);
        }
    }

    #[test]
    fn no_password_is_in_the_name_of_a_server() {
        let config = from_url("postgres://u:s3cret@[::1]:7,b/x?target_session_attrs=read-write").unwrap();
        assert_eq!(server_name(&config), "[::1]:7,b:5432/x");
    }
}
