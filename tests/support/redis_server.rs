//! A private, real Redis server for tests: on a free port, without persistence, ended with the test
//! process.

use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// The server runs as a child of a shell. The shell kills it when its standard input closes, at the
/// latest when the test process ends for any reason. The shell ends with the server.
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

/// How long a server may take to start.
const START: Duration = Duration::from_secs(20);

/// A running `redis-server`. Dropping it kills the server.
pub struct RedisServer {
    port: u16,
    options: Vec<String>,
    /// The configuration, for a sentinel.
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
    /// If `redis-server` is not installed or does not start: these tests do not pass without one.
    pub fn start() -> RedisServer {
        RedisServer::start_with(&[])
    }

    /// Starts a server with more options, such as `--requirepass s3cret`.
    ///
    /// # Panics
    /// If the server does not start.
    pub fn start_with(options: &[&str]) -> RedisServer {
        RedisServer::run(options, "")
    }

    /// Starts a sentinel with these lines of configuration.
    ///
    /// # Panics
    /// If the sentinel does not start.
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

    /// A server shared by the tests of one binary.
    pub fn shared() -> &'static RedisServer {
        static SHARED: OnceLock<RedisServer> = OnceLock::new();
        SHARED.get_or_init(RedisServer::start)
    }

    /// The port on which it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its address, without a login.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Starts a server that also listens on a unix socket, and returns the socket's path. The
    /// socket is removed with the server.
    ///
    /// # Panics
    /// If the server does not start.
    pub fn start_with_socket() -> (RedisServer, String) {
        let server = RedisServer::start_with(&["--unixsocket", "redis.sock"]);
        let directory = redis::cmd("CONFIG").arg("GET").arg("dir").query(&mut server.connection());
        let (_, directory): (String, String) = directory.expect("the server is running");
        (server, format!("{directory}/redis.sock"))
    }

    /// A separate connection for inspecting the server.
    ///
    /// # Panics
    /// If it is unreachable.
    pub fn connection(&self) -> redis::Connection {
        let client = redis::Client::open(self.url()).expect("the URL is right");
        client.get_connection().expect("the server is running")
    }

    /// How often the server has carried out `command`, such as `evalsha` or `script|load`. Includes
    /// commands in scripts.
    ///
    /// # Panics
    /// If it is unreachable.
    pub fn calls_of(&self, command: &str) -> u64 {
        let stats: String = redis::cmd("INFO").arg("commandstats").query(&mut self.connection()).expect("INFO works");
        let prefix = format!("cmdstat_{command}:calls=");
        let line = stats.lines().find_map(|line| line.strip_prefix(&prefix));
        line.and_then(|line| line.split(',').next()).map_or(0, |calls| calls.parse().expect("a number of calls"))
    }

    /// Whether it reports to be a master; false if it does not answer.
    pub fn is_master(&self) -> bool {
        self.replication().is_some_and(|stats| stats.contains("role:master"))
    }

    /// Its replication info, if it answers.
    pub(crate) fn replication(&self) -> Option<String> {
        let password = self.options.iter().skip_while(|option| *option != "--requirepass").nth(1);
        let login = password.map_or(String::new(), |password| format!(":{password}@"));
        let client = redis::Client::open(format!("redis://{login}127.0.0.1:{}", self.port)).ok()?;
        // The server closes connections when its role changes.
        let mut connection = client.get_connection().ok()?;
        redis::cmd("INFO").arg("replication").query(&mut connection).ok()
    }

    /// Kills it, like a crash.
    pub fn kill(&self) {
        drop(self.process().take());
    }

    /// Starts it again on the same port, empty.
    ///
    /// # Panics
    /// If it does not start.
    pub fn restart(&self) {
        self.kill();
        let process = Process::start(self.port, &self.options, &self.sentinel).expect("redis-server starts again");
        *self.process() = Some(process);
    }

    /// Suspends it: connections stay open, and nothing is answered.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Resumes it.
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

/// A port without a listener.
///
/// # Panics
/// If none is free.
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
                // Another server may have the port: then ours has ended by now.
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
        // Nothing is left to do if the wait fails.
        let _ = self.watchdog.wait();
    }
}

/// Whether a Redis server answers on the port, including one that asks for a password.
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
