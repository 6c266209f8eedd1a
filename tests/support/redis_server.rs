//! A real Redis server of the tests' own: on a free port, with nothing on disk, gone with the test process.

use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// The server runs as a child of a shell that kills it when its own standard input ends, at the latest with the test
/// process, however that ends. The shell itself ends with the server.
const WATCHDOG: &str = r#"
directory=$(mktemp -d) || exit 1
if [ -n "$SENTINEL" ]; then
    printf '%s\n' "$SENTINEL" >"$directory/sentinel.conf"
    redis-server "$directory/sentinel.conf" --sentinel "$@" >"$directory/log" 2>&1 </dev/null &
else
    redis-server --dir "$directory" --save '' --appendonly no "$@" >"$directory/log" 2>&1 </dev/null &
fi
server=$!
echo "$server"
exec 3<&0
(read -r _ <&3; kill -9 "$server" 2>/dev/null) &
wait "$server" 2>/dev/null
rm -rf "$directory"
"#;

/// So long may a server take to start.
const START: Duration = Duration::from_secs(20);

/// A running `redis-server`. Dropping it kills the server.
pub struct RedisServer {
    port: u16,
    options: Vec<String>,
    /// The configuration of a sentinel, if it is one.
    sentinel: String,
    process: Mutex<Option<Process>>,
}

struct Process {
    watchdog: Child,
    server: String,
}

impl RedisServer {
    /// Starts a server.
    ///
    /// # Panics
    /// Where `redis-server` is not installed or does not start: these tests do not pass without one.
    pub fn start() -> RedisServer {
        RedisServer::start_with(&[])
    }

    /// Starts a server with more options, as in `--requirepass s3cret`.
    ///
    /// # Panics
    /// As [`start`](RedisServer::start).
    pub fn start_with(options: &[&str]) -> RedisServer {
        RedisServer::run(options, "")
    }

    /// Starts a sentinel with the lines of a configuration.
    ///
    /// # Panics
    /// As [`start`](RedisServer::start).
    pub fn start_sentinel(configuration: &str) -> RedisServer {
        RedisServer::run(&[], configuration)
    }

    fn run(options: &[&str], sentinel: &str) -> RedisServer {
        let installed =
            Command::new("redis-server").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        assert!(
            installed.is_ok_and(|status| status.success()),
            "redis-server is not installed, and these tests need a real one: apt-get install redis-server"
        );
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        // Another process may take the port before the server does.
        for _ in 0..5 {
            let port = free_port();
            if let Some(process) = Process::start(port, &options, sentinel) {
                return RedisServer {
                    port,
                    options,
                    sentinel: sentinel.to_owned(),
                    process: Mutex::new(Some(process)),
                };
            }
        }
        panic!("redis-server does not start with {options:?}");
    }

    /// A server that the tests of one binary share.
    pub fn shared() -> &'static RedisServer {
        static SHARED: OnceLock<RedisServer> = OnceLock::new();
        SHARED.get_or_init(RedisServer::start)
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its address, without a login.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Starts a server that listens at a unix socket too, and says where that is. It goes with the server.
    ///
    /// # Panics
    /// As [`start`](RedisServer::start).
    pub fn start_with_socket() -> (RedisServer, String) {
        let server = RedisServer::start_with(&["--unixsocket", "redis.sock"]);
        let directory = redis::cmd("CONFIG").arg("GET").arg("dir").query(&mut server.connection());
        let (_, directory): (String, String) = directory.expect("the server is running");
        (server, format!("{directory}/redis.sock"))
    }

    /// A connection for looking at it from the side.
    ///
    /// # Panics
    /// Where it cannot be reached.
    pub fn connection(&self) -> redis::Connection {
        let client = redis::Client::open(self.url()).expect("the URL is right");
        client.get_connection().expect("the server is running")
    }

    /// How often it has carried out `command`, as in `evalsha` or `script|load`; with those in scripts.
    ///
    /// # Panics
    /// Where it cannot be reached.
    pub fn calls_of(&self, command: &str) -> u64 {
        let stats: String = redis::cmd("INFO").arg("commandstats").query(&mut self.connection()).expect("INFO works");
        let prefix = format!("cmdstat_{command}:calls=");
        let line = stats.lines().find_map(|line| line.strip_prefix(&prefix));
        line.and_then(|line| line.split(',').next()).map_or(0, |calls| calls.parse().expect("a number of calls"))
    }

    /// Whether it is a master, by what it says itself; one that does not answer is none.
    pub fn is_master(&self) -> bool {
        self.replication().is_some_and(|stats| stats.contains("role:master"))
    }

    /// What it says about masters and replicas, if it answers.
    pub(crate) fn replication(&self) -> Option<String> {
        let password = self.options.iter().skip_while(|option| *option != "--requirepass").nth(1);
        let login = password.map_or(String::new(), |password| format!(":{password}@"));
        let client = redis::Client::open(format!("redis://{login}127.0.0.1:{}", self.port)).ok()?;
        // It ends its connections when its role changes.
        let mut connection = client.get_connection().ok()?;
        redis::cmd("INFO").arg("replication").query(&mut connection).ok()
    }

    /// Kills it, as a crash would.
    pub fn kill(&self) {
        drop(self.process().take());
    }

    /// Starts it again on the same port, empty.
    ///
    /// # Panics
    /// Where it does not start.
    pub fn restart(&self) {
        self.kill();
        let process = Process::start(self.port, &self.options, &self.sentinel).expect("redis-server starts again");
        *self.process() = Some(process);
    }

    /// Stops it without ending it: connections stay, nothing is answered.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let process = self.process();
        let server = &process.as_ref().expect("the server is running").server;
        let sent = Command::new("kill").args([signal, server]).status().expect("kill runs");
        assert!(sent.success(), "kill {signal} {server}");
    }

    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for RedisServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisServer").field("port", &self.port).finish_non_exhaustive()
    }
}

/// A port that nobody listens at.
///
/// # Panics
/// Where none is free.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("it is bound").port()
}

impl Process {
    fn start(port: u16, options: &[String], sentinel: &str) -> Option<Process> {
        let mut watchdog = Command::new("sh")
            .args(["-c", WATCHDOG, "redis-server"])
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
            .args(options)
            .env("SENTINEL", sentinel)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh runs");
        let mut server = String::new();
        let output = watchdog.stdout.take().expect("it is piped");
        BufReader::new(output).read_line(&mut server).expect("the watchdog says the server's id");
        let mut process = Process { watchdog, server: server.trim().to_owned() };
        let until = Instant::now() + START;
        while Instant::now() < until && process.is_alive() {
            if answers(port) {
                // Another server may have the port: then ours is gone by now.
                return process.is_alive().then_some(process);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        None
    }

    fn is_alive(&mut self) -> bool {
        self.watchdog.try_wait().is_ok_and(|ended| ended.is_none())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.watchdog.stdin.take());
        // Nothing is left to do where it cannot be waited for.
        let _ = self.watchdog.wait();
    }
}

/// Whether a Redis server is at the port; one that wants a password answers too.
fn answers(port: u16) -> bool {
    let ask = || -> std::io::Result<u8> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"PING\r\n")?;
        let mut first = [0];
        stream.read_exact(&mut first)?;
        Ok(first[0])
    };
    matches!(ask(), Ok(b'+' | b'-'))
}
