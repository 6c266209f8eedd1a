//! Where the servers are and how to log in, from URLs or the environment.

use std::borrow::Cow;
use std::ffi::OsString;
use std::time::Duration;

use redis::{ConnectionAddr, IntoConnectionInfo};

use crate::backend::redis::setup::endpoint::{Address, Login};
use crate::duration;
use crate::error::BackendError;

const DEFAULT_HOST: &str = "127.0.0.1";
const DEFAULT_PORT: u16 = 6379;

/// URL schemes with TLS, and their equivalents without.
const ENCRYPTED: [(&str, &str); 2] = [("rediss", "redis"), ("valkeys", "valkey")];

/// Settings from a URL or the environment.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) servers: Servers,
    pub(crate) login: Login,
    pub(crate) encrypted: bool,
    /// The longest time for a decision, if the URL says.
    pub(crate) timeout: Option<Duration>,
}

/// What a URL's query says, for any kind of server.
#[derive(Clone, Copy, Default)]
struct Query {
    resp2: bool,
    timeout: Option<Duration>,
}

#[derive(Clone)]
pub(crate) enum Servers {
    One(Address),
    /// Sentinels, and the name of the master.
    #[cfg(feature = "redis-sentinel")]
    Sentinel(Vec<Settings>, String),
    /// Some nodes.
    #[cfg(feature = "redis-cluster")]
    Cluster(Vec<Address>),
}

/// The servers that a URL names.
pub(crate) fn from_url(url: &str) -> Result<Settings, BackendError> {
    let Some((scheme, rest)) = url.split_once("://") else { return Err(unknown_scheme()) };
    let (server, kind) = match scheme.split_once('+') {
        Some((server, kind @ ("sentinel" | "cluster"))) => (server, Some(kind)),
        _ => (scheme, None),
    };
    let plain = ENCRYPTED.iter().find(|(encrypted, _)| *encrypted == server).map(|(_, plain)| *plain);
    match plain.unwrap_or(server) {
        "redis" | "valkey" => {}
        "unix" | "redis+unix" | "valkey+unix" if kind.is_none() => {}
        _ => return Err(unknown_scheme()),
    }
    if plain.is_some() && !cfg!(feature = "redis-tls") {
        return Err(BackendError::configuration(
            "the Redis URL asks for TLS, which needs the feature `redis-tls` of ratelimit-runtime",
        ));
    }
    if rest.contains('#') {
        return Err(BackendError::configuration("the Redis URL has a fragment after `#`, which has no meaning here"));
    }
    let is_socket = server.ends_with("unix") || scheme == "unix";
    let (rest, query) = read_query(rest, if is_socket { &["db", "user", "pass"] } else { &[] })?;
    let mut settings = match kind {
        #[cfg(feature = "redis-sentinel")]
        Some("sentinel") => sentinels_of_url(server, &rest, query.resp2)?,
        #[cfg(feature = "redis-cluster")]
        Some("cluster") => cluster_of_url(server, &rest)?,
        Some(kind) => {
            return Err(BackendError::configuration(format!(
                "the Redis URL needs the feature `redis-{kind}` of ratelimit-runtime"
            )));
        }
        None => server_of_url(plain.unwrap_or(server), &rest, plain.is_some())?,
    };
    settings.login.resp2 = query.resp2;
    settings.timeout = query.timeout;
    Ok(settings)
}

/// Takes `protocol` (`resp2` or `resp3`, which carry the same answers) and `timeout` out of the query.
/// Refuses parameters that would be ignored: `?ssl=true` asks for encryption.
fn read_query<'a>(rest: &'a str, others: &[&str]) -> Result<(Cow<'a, str>, Query), BackendError> {
    let mut read = Query::default();
    let Some((place, query)) = rest.split_once('?') else { return Ok((rest.into(), read)) };
    let (mut seen, mut left) = (Vec::new(), Vec::new());
    for part in query.split('&') {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let is_known = matches!(name, "protocol" | "timeout") || others.contains(&name);
        if !is_known || seen.contains(&name) {
            // No error may show a password that contains a `?`.
            let is_name = name.len() <= 20 && name.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'_');
            let shown = if is_name && !query.contains('@') { format!("`{name}` in the") } else { "the".to_owned() };
            let instead = match name {
                "ssl" | "tls" => "; for TLS it begins with `rediss://`",
                "db" => "; a database is the path, as in `redis://host:6379/2`",
                _ if is_known => "; it is given twice",
                _ => "",
            };
            return Err(BackendError::configuration(format!(
                "{shown} query of the Redis URL is not understood{instead}"
            )));
        }
        match (name, value) {
            ("protocol", "2" | "resp2") => read.resp2 = true,
            ("protocol", "3" | "resp3") => {}
            ("protocol", _) => {
                return Err(BackendError::configuration("`protocol` in the Redis URL is neither `resp2` nor `resp3`"));
            }
            ("timeout", _) => {
                let timeout = duration::parse(value).map_err(|_| {
                    BackendError::configuration("`timeout` in the Redis URL is not a duration such as `30ms`")
                })?;
                read.timeout = Some(Duration::from_nanos(timeout));
            }
            ("db", _) if value.parse::<u32>().is_err() => {
                return Err(BackendError::configuration("`db` in the Redis URL is not the number of a database"));
            }
            _ => left.push(part),
        }
        seen.push(name);
    }
    let left = if left.is_empty() { String::new() } else { format!("?{}", left.join("&")) };
    Ok((format!("{place}{left}").into(), read))
}

fn server_of_url(scheme: &str, rest: &str, encrypted: bool) -> Result<Settings, BackendError> {
    // redis-rs's own message may quote a part of the URL.
    let info = format!("{scheme}://{rest}").into_connection_info().map_err(|_| {
        BackendError::configuration(
            "the Redis URL is not of the form `redis://user:password@host:port/database` or `unix:///path?db=0`",
        )
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
            .map_err(|_| BackendError::configuration("the number of a Redis database is from 0 to 4294967295"))?,
        resp2: false,
    };
    Ok(Settings { servers: Servers::One(address), login, encrypted, timeout: None })
}

/// The servers of `user:password@host:port,host:port/path`, each with the login, and the path.
#[cfg(any(feature = "redis-sentinel", feature = "redis-cluster"))]
fn list<'a>(scheme: &str, rest: &'a str) -> Result<(Vec<Settings>, &'a str), BackendError> {
    let (login, hosts) = rest.rsplit_once('@').map_or(("", rest), |(login, hosts)| (login, hosts));
    let (hosts, path) = hosts.split_once('/').unwrap_or((hosts, ""));
    let at = if login.is_empty() { "" } else { "@" };
    let servers = hosts.split(',').map(|host| from_url(&format!("{scheme}://{login}{at}{host}")));
    Ok((servers.collect::<Result<Vec<_>, _>>()?, path))
}

/// Parses `host:port,host:port/master/database`. The login is for the servers.
#[cfg(feature = "redis-sentinel")]
fn sentinels_of_url(scheme: &str, rest: &str, resp2: bool) -> Result<Settings, BackendError> {
    let form = || {
        BackendError::configuration(
            "the Redis URL is not of the form `redis+sentinel://user:password@host:port,host:port/master/0`",
        )
    };
    let (mut sentinels, path) = list(scheme, rest)?;
    let (master, database) = path.split_once('/').unwrap_or((path, ""));
    let database = if database.is_empty() { 0 } else { database.parse().map_err(|_| form())? };
    let (Some(first), false) = (sentinels.first(), master.is_empty()) else { return Err(form()) };
    let (login, encrypted) = (Login { database, ..first.login.clone() }, first.encrypted);
    for sentinel in &mut sentinels {
        sentinel.login = Login { resp2, ..Login::default() };
        if sentinel.encrypted != encrypted {
            return Err(form());
        }
    }
    Ok(Settings { servers: Servers::Sentinel(sentinels, master.to_owned()), login, encrypted, timeout: None })
}

/// Parses `host:port,host:port`.
#[cfg(feature = "redis-cluster")]
fn cluster_of_url(scheme: &str, rest: &str) -> Result<Settings, BackendError> {
    let (nodes, database) = list(scheme, rest)?;
    let database = if database.is_empty() { Ok(0) } else { database.parse() };
    let database = database.map_err(|_| {
        BackendError::configuration(
            "the Redis URL is not of the form `redis+cluster://user:password@host:port,host:port/0`",
        )
    })?;
    let mut settings = cluster(nodes)?;
    settings.login.database = database;
    Ok(settings)
}

/// The cluster of these nodes.
#[cfg(feature = "redis-cluster")]
pub(crate) fn cluster(nodes: Vec<Settings>) -> Result<Settings, BackendError> {
    let Some(first) = nodes.first() else {
        return Err(BackendError::configuration("a cluster needs at least one node"));
    };
    let (login, encrypted) = (first.login.clone(), first.encrypted);
    let timeout = nodes.iter().find_map(|node| node.timeout);
    let mut addresses = Vec::new();
    for node in nodes {
        match node.servers {
            Servers::One(address @ Address::Tcp(..)) => addresses.push(address),
            _ => return Err(BackendError::configuration("the URL of a cluster node is `redis://host:port`")),
        }
        if node.encrypted != encrypted {
            return Err(BackendError::configuration("either all nodes of a cluster have TLS, or none"));
        }
    }
    Ok(Settings { servers: Servers::Cluster(addresses), login, encrypted, timeout })
}

/// The master under these sentinels.
#[cfg(feature = "redis-sentinel")]
pub(crate) fn sentinel(sentinels: Vec<Settings>, master: String) -> Result<Settings, BackendError> {
    if master.is_empty() || sentinels.is_empty() {
        return Err(BackendError::configuration("a master needs a name and at least one sentinel"));
    }
    if !sentinels.iter().all(|sentinel| matches!(sentinel.servers, Servers::One(_))) {
        return Err(BackendError::configuration("the URL of a sentinel is `redis://host:port`"));
    }
    // If the sentinels are to be reached by TLS, so are the servers.
    let encrypted = sentinels.iter().any(|sentinel| sentinel.encrypted);
    let timeout = sentinels.iter().find_map(|sentinel| sentinel.timeout);
    Ok(Settings { servers: Servers::Sentinel(sentinels, master), login: Login::default(), encrypted, timeout })
}

fn unknown_scheme() -> BackendError {
    // The rest of the URL may hold a password in any place.
    BackendError::configuration(
        "the Redis URL must begin with `redis://`, `rediss://`, `unix://`, `redis+sentinel://` or `redis+cluster://`; \
         `valkey` may stand for `redis`",
    )
}

/// The server in the environment: `REDIS_URL`, else `REDIS_HOST`, `REDIS_PORT` and `REDIS_DB`, else
/// this machine. The login is the URL's, completed by `REDIS_USERNAME` and `REDIS_PASSWORD`. Empty
/// variables count as unset.
pub(crate) fn from_environment(variable: impl Fn(&str) -> Option<OsString>) -> Result<Settings, BackendError> {
    let read = |name: &str| match variable(name).map(OsString::into_string) {
        Some(Ok(value)) => Ok(Some(value).filter(|value| !value.is_empty())),
        Some(Err(_)) => Err(BackendError::configuration(format!("the environment variable {name} is not UTF-8"))),
        None => Ok(None),
    };
    let (username, password) = (read("REDIS_USERNAME")?, read("REDIS_PASSWORD")?);
    if let Some(url) = read("REDIS_URL")? {
        let mut settings = from_url(&url)?;
        // A password in the URL without a username does not belong to `REDIS_USERNAME`.
        if settings.login.password.is_none() {
            settings.login.username = settings.login.username.or(username);
            settings.login.password = password;
        }
        return Ok(settings);
    }
    let number = |name: &str| match read(name)? {
        Some(value) => match value.parse::<u16>() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(BackendError::configuration(format!(
                "the environment variable {name} is not a number from 0 to 65535"
            ))),
        },
        None => Ok(None),
    };
    let host = read("REDIS_HOST")?.unwrap_or_else(|| DEFAULT_HOST.to_owned());
    // Brackets are allowed, as in a URL.
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).map_or(host.clone(), str::to_owned);
    // An IPv6 address has more than one colon.
    if host.contains('/') || host.matches(':').count() == 1 {
        return Err(BackendError::configuration(
            "the environment variable REDIS_HOST is not a host: use REDIS_PORT for a port, and REDIS_URL for a URL",
        ));
    }
    let port = number("REDIS_PORT")?.unwrap_or(DEFAULT_PORT);
    let database = number("REDIS_DB")?.unwrap_or(0).into();
    if username.is_some() && password.is_none() {
        return Err(BackendError::configuration("REDIS_USERNAME is set, but REDIS_PASSWORD is not"));
    }
    let login = Login { username, password, database, resp2: false };
    Ok(Settings { servers: Servers::One(Address::Tcp(host, port)), login, encrypted: false, timeout: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RedisBackend;
    use crate::error::BackendErrorKind;

    fn environment(variables: &[(&str, &str)]) -> Result<Settings, BackendError> {
        from_environment(|name| {
            variables.iter().find(|(variable, _)| *variable == name).map(|(_, value)| OsString::from(value))
        })
    }

    fn read(variables: &[(&str, &str)]) -> String {
        match environment(variables) {
            Ok(Settings { servers, login, .. }) => {
                let Servers::One(address) = servers else { panic!("more than one server") };
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
    fn the_login_of_a_url_without_one_is_in_the_environment() {
        let login = [("REDIS_USERNAME", "app"), ("REDIS_PASSWORD", "s3cret")];
        let with = |url| read(&[("REDIS_URL", url), login[0], login[1]]);
        assert_eq!(with("redis://cache"), "cache:6379 0 app s3cret");
        assert_eq!(with("redis://other@cache"), "cache:6379 0 other s3cret");
        assert_eq!(with("redis://:own@cache"), "cache:6379 0 - own");
        assert_eq!(with("redis://other:own@cache"), "cache:6379 0 other own");
        assert_eq!(with("unix:///run/redis.sock"), "/run/redis.sock 0 app s3cret");
        assert_eq!(read(&[("REDIS_URL", "redis://cache"), login[1]]), "cache:6379 0 - s3cret");
    }

    #[test]
    fn unknown_parameters_of_a_url_are_refused_by_name() {
        let message = |url: &str| from_url(url).err().map(|error| error.to_string()).unwrap_or_default();
        for (url, name) in [
            ("redis://cache?ssl=true", "`ssl`"),
            ("redis://cache:6379/0?tls", "`tls`"),
            ("redis://cache?db=abc", "`db`"),
            ("redis://cache?protocol=resp4", "`protocol`"),
            ("redis://cache/0?timeout=s3cret", "`timeout`"),
            ("redis://cache/0?timeout=1s&timeout=2s", "`timeout`"),
            ("redis://cache?", "query"),
            ("unix:///run/redis.sock?db=abc", "`db`"),
            ("unix:///run/redis.sock?db=-1", "`db`"),
            ("unix:///run/redis.sock?db=1&db=2", "`db`"),
            ("unix:///run/redis.sock?ssl=true", "`ssl`"),
            ("redis+unix:///run/redis.sock?password=s3cret", "`password`"),
        ] {
            assert!(message(url).contains(name), "{url}: {}", message(url));
            assert!(!message(url).contains("s3cret"));
        }
        for url in ["redis://user:s3cret?ssl@cache", "redis://:a?s3cret=b@cache"] {
            assert!(message(url).contains("query") && !message(url).contains("s3cret"), "{}", message(url));
        }
        let socket = from_url("unix:///run/redis.sock?db=2&timeout=30ms&user=app&pass=s3cret").unwrap();
        assert_eq!((socket.login.database, socket.login.username.as_deref()), (2, Some("app")));
        assert_eq!(socket.timeout, Some(Duration::from_millis(30)));
        let server = from_url("redis://cache/1?timeout=2s&protocol=2").unwrap();
        assert_eq!((server.login.database, server.login.resp2), (1, true));
        assert_eq!(server.timeout, Some(Duration::from_secs(2)));
    }

    #[test]
    fn the_builders_timeout_comes_before_the_urls() {
        let builder = || RedisBackend::builder().url("redis://cache?timeout=30ms");
        assert!(format!("{:?}", builder().build().unwrap()).contains("timeout: 30ms"));
        let by_builder = builder().timeout(Duration::from_secs(7)).build().unwrap();
        assert!(format!("{by_builder:?}").contains("timeout: 7s"));
        let too_long = RedisBackend::builder().url("redis://cache?timeout=2h").build();
        assert!(too_long.unwrap_err().to_string().contains("from 1 ms to 1 hour"));
    }

    #[cfg(any(feature = "redis-sentinel", feature = "redis-cluster"))]
    #[test]
    fn unknown_parameters_of_a_url_of_several_servers_are_refused_by_name() {
        for url in ["redis+sentinel://one,two/main/0?ssl=true", "redis+cluster://one,two?ssl=true"] {
            let error = from_url(url).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains("`ssl`") || error.contains("needs the feature"), "{error}");
        }
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
        assert_eq!(read(&[("REDIS_HOST", "[::1]")]), read(&[("REDIS_HOST", "::1")]));
    }

    #[test]
    fn a_mistake_is_named_without_its_value() {
        for (name, value) in [
            ("REDIS_URL", "s3cret"),
            ("REDIS_URL", "http://user:s3cret@cache"),
            ("REDIS_URL", "rediss://user:s3cret@cache#insecure"),
            ("REDIS_URL", "redis://user:s3cret@cache:port"),
            ("REDIS_URL", "redis://user:s3cret@cache/first"),
            ("REDIS_URL", "redis://user:s3cret@cache/-1"),
            ("REDIS_HOST", "redis://user:s3cret@cache"),
            ("REDIS_HOST", "s3cret:7000"),
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

    #[cfg(feature = "redis-tls")]
    #[test]
    fn encryption_is_what_the_scheme_says() {
        assert!(from_url("rediss://cache").unwrap().encrypted && from_url("valkeys://cache").unwrap().encrypted);
        assert!(!from_url("redis://cache").unwrap().encrypted);
    }

    #[cfg(feature = "redis-sentinel")]
    #[test]
    fn a_url_of_sentinels_has_the_login_of_the_master() {
        let settings = from_url("redis+sentinel://app:s3%40cret@one:1,two/main/3").unwrap();
        let Servers::Sentinel(sentinels, master) = settings.servers else { panic!("no sentinels") };
        assert_eq!((master.as_str(), settings.login.database), ("main", 3));
        assert_eq!(settings.login.password.as_deref(), Some("s3@cret"));
        assert!(sentinels.iter().all(|sentinel| sentinel.login.password.is_none()));
    }

    #[cfg(feature = "redis-cluster")]
    #[test]
    fn a_url_of_a_cluster_names_its_nodes() {
        let settings = from_url("valkey+cluster://:s3cret@one:1,[::1]:2,three").unwrap();
        let Servers::Cluster(nodes) = settings.servers else { panic!("no cluster") };
        let names: Vec<String> = nodes.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["one:1", "[::1]:2", "three:6379"]);
        assert_eq!((settings.login.password.as_deref(), settings.login.database), (Some("s3cret"), 0));
        let settings = from_url("redis+cluster://one:1,two:2/3?protocol=resp2&timeout=1s").unwrap();
        assert_eq!((settings.login.database, settings.login.resp2), (3, true));
        assert_eq!(settings.timeout, Some(Duration::from_secs(1)));
        for url in ["redis+cluster://one:1/0", "redis+cluster://one:1/"] {
            assert_eq!(from_url(url).unwrap().login.database, 0);
        }
        for url in ["redis+cluster://one:1/first", "redis+cluster://one:1/-1", "redis+cluster://one:1/0?db=1"] {
            assert_eq!(from_url(url).err().unwrap().kind(), BackendErrorKind::Configuration, "{url}");
        }
    }
}
